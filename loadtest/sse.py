"""When did the first and the last token of a stream arrive, and how many were there?

Reads OpenAI-style server-sent events. Per event after the first token it costs a prefix test and a
counter; JSON is read up to the first token and then only in the last few events, where finish
reason, usage and errors stand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from loadtest.http1 import Response
from loadtest.records import NEVER

_TAIL = 4  # events kept for the end of the stream


class TokenStream(Response):
    """A streamed completion. Instants are the monotonic nanoseconds of the read that brought the
    event.

    `first_ns`: the first event with generated text. `done_ns`: `[DONE]`, or the end of a body whose
    last choice was finished. `chunks`: events that carry text. `tokens`, `prompt_tokens`: from the
    usage frame, -1 without one. `finished`: a finish reason was seen. `error`: an error frame's
    message, or the body of a non-200 answer.
    """

    __slots__ = (
        "_events", "_pending", "_tail", "chunks", "done", "done_ns", "error", "finished",
        "first_ns", "prompt_tokens", "tokens", "whole",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.first_ns = NEVER
        self.done_ns = NEVER
        self.chunks = 0
        self.tokens = -1
        self.prompt_tokens = -1
        self.done = False
        self.finished = ""
        self.error = ""
        self.whole = b""
        self._events = 0
        self._pending = b""
        self._tail: list[bytes] = []

    def on_body(self, piece: bytes, now_ns: int) -> None:
        """Take body bytes, cut anywhere."""
        if self.status != 200:
            self.whole += piece
            return
        if self._pending:
            piece = self._pending + piece
            self._pending = b""
        elif piece.endswith(b"}\n\n") and piece.count(b"\n\n") == 1 and self.first_ns != NEVER:
            # The case that is met once per token: exactly one event, not the last.
            self._events += 1
            tail = self._tail
            tail.append(piece)
            if len(tail) > 16:
                del tail[:-_TAIL]
            return
        self._split(piece, now_ns)

    def _split(self, piece: bytes, now_ns: int) -> None:
        """Cut a piece into events; what follows the last empty line waits for more."""
        if b"\r" in piece:
            if piece.endswith(b"\r"):
                self._pending = piece
                return
            piece = piece.replace(b"\r\n", b"\n")
        *events, self._pending = piece.split(b"\n\n")
        for event in events:
            data = _data_of(event)
            if data == b"[DONE]":
                self.done = True
                self.done_ns = now_ns
            elif data:
                self._event(data, now_ns)

    def _event(self, data: bytes, now_ns: int) -> None:
        self._tail.append(data)
        if len(self._tail) > 16:
            del self._tail[:-_TAIL]
        if self.first_ns != NEVER:
            self._events += 1
        elif has_text(_parse(data)):
            self.first_ns = now_ns
            self._events = 1

    def on_complete(self, now_ns: int) -> None:
        """Read the last events: what finished the stream, its usage, an error."""
        if self.status != 200:
            self.error = _error_of(_parse(self.whole)) or self.whole[:200].decode(errors="replace")
            return
        if self._pending.strip():
            self._split(self._pending + b"\n\n", now_ns)
        without_text = 0
        for raw in self._tail[-_TAIL:]:
            event = _parse(raw if raw.startswith(b"{") else _data_of(raw))
            self._read_tail(event)
            without_text += not has_text(event)
        self.chunks = max(0, self._events - min(without_text, self._events))
        if self.first_ns != NEVER:
            self.chunks = max(1, self.chunks)
        if self.done_ns == NEVER and self.finished:
            self.done_ns = now_ns

    def _read_tail(self, event: Mapping[str, Any]) -> None:
        self.error = self.error or _error_of(event)
        for choice in event.get("choices") or ():
            self.finished = choice.get("finish_reason") or self.finished
        usage = event.get("usage")
        if usage:
            self.tokens = int(usage.get("completion_tokens") or 0)
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)


def has_text(event: Mapping[str, Any]) -> bool:
    """Tell whether an event of chat or completions brings something that was generated."""
    for choice in event.get("choices") or ():
        if choice.get("text"):
            return True
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("reasoning_content") or delta.get("tool_calls"):
            return True
        if delta.get("reasoning"):
            return True
    return False


def _data_of(event: bytes) -> bytes:
    """Join the data lines of one event; comments and other fields are left out."""
    event = event.strip(b"\n")
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def _parse(data: bytes) -> Mapping[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _error_of(event: Mapping[str, Any]) -> str:
    """Give the message of an error frame, in OpenAI's envelope or SGLang's; "" if it is none."""
    error = event.get("error")
    if isinstance(error, Mapping):
        return with_code(error)
    if error:
        return str(error)
    if event.get("object") == "error":
        return str(event.get("message") or "error")
    return ""


def with_code(error: Mapping[str, Any]) -> str:
    """Word an error object of OpenAI's: its message, and its code where the message has it not."""
    message, code = str(error.get("message") or json.dumps(error)), error.get("code")
    return f"{message} ({code})" if isinstance(code, str) and code not in message else message
