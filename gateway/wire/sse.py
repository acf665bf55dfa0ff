"""What do an engine's frames say, and which of them must change before a caller sees them?

A stream is cut at blank lines only: whole frames go on, a partial one waits for its rest. Raw line
breaks cannot occur inside JSON strings, so a frame's edges are certain wherever the bytes were
split. Most blocks end as all plain frames of their stream do, and go on untouched once that is
seen; others are decoded.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from backends.sglang import error_of
from gateway.call import Usage
from gateway.errors import EngineBusy, EngineFailed, GatewayError, envelope
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.errors import translate
from gateway.wire.usage import respell, usage_of

DONE = b"data: [DONE]\n\n"
MAX_FRAME_BYTES = 16 * 1024 * 1024

Edit = Callable[[dict[str, Any]], bool]


class Frames:
    """Cuts a byte stream into whole frames, whose lines end in LF however the engine ends them."""

    __slots__ = ("partial",)

    def __init__(self) -> None:
        self.partial = b""

    def feed(self, data: bytes) -> bytes:
        """Give the whole frames that are there now, as one block."""
        if self.partial:
            data = self.partial + data
        if data.endswith(b"\n\n"):
            self.partial = b""
            return data
        held = b""
        if b"\r" in data:
            data, held = _with_line_feeds(data)
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = 0
        self.partial = data[cut:] + held
        if len(self.partial) > MAX_FRAME_BYTES:
            raise EngineSaidNo(EngineFailed("The engine sent a frame that is too large."))
        return data[:cut]


def _with_line_feeds(data: bytes) -> tuple[bytes, bytes]:
    """Give lines that end in LF, and a CR at the very end whose LF may still be to come.

    JSON has no raw CR inside a string, so each one ends a line.
    """
    held = b"\r" if data.endswith(b"\r") and not data.endswith(b"\r\r") else b""
    lines = data[: len(data) - len(held)].replace(b"\r\n", b"\n")
    return lines.replace(b"\r", b"\n"), held


def split(block: bytes) -> Iterator[bytes]:
    """Give each frame of a block, with its blank line."""
    for frame in block.split(b"\n\n"):
        if frame:
            yield frame + b"\n\n"


def data_of(frame: bytes) -> bytes:
    """Give what follows `data:` in a frame's lines; empty where there is no such line."""
    found = [line[5:] for line in frame.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(found).strip()


def chunk_of(data: bytes) -> dict[str, Any]:
    """Read the data of one frame of a generation.

    Raises EngineSaidNo where it is an error, or no chunk at all: to leave it out would cut the
    answer short without a word, and to pass it on would break the caller's client.
    """
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = None
    if not isinstance(chunk, dict) or not are_choices(chunk.get("choices")):
        raise EngineSaidNo(EngineFailed("The engine's answer could not be read."))
    if chunk.get("error"):
        raise EngineSaidNo(translate(error_of(500, data)))
    return chunk


def are_choices(found: Any) -> bool:
    """Whether what an engine gives as its choices, or does not, has their shape."""
    if found is None:
        return True
    return isinstance(found, list) and all(
        [
            isinstance(each, dict)
            and isinstance(each.get("delta") or {}, dict)
            and isinstance(each.get("message") or {}, dict)
            for each in found
        ]
    )


def encode(document: Any) -> bytes:
    """Give a document as one frame."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


def error_frame(error: GatewayError) -> bytes:
    """Give the frame by which OpenAI's clients learn of an error in a started stream."""
    return encode(envelope(error))


class OpenAIStream:
    """The editor for chat and text completions.

    `wants_usage`: the caller asked for the usage frame, else it is dropped; OpenAI then also puts
    a null usage on all earlier frames. `tier` is echoed on every frame. `edit` changes each decoded
    frame in place and tells whether it did: only calls that need it have one.
    """

    def __init__(
        self, *, wants_usage: bool, tier: str | None = None, edit: Edit | None = None
    ) -> None:
        self.started = False
        self.ended = False
        self.usage: Usage | None = None
        self.finish_reasons: tuple[str, ...] = ()
        self._wants_usage = wants_usage
        self._prefix = b'"service_tier":%b,' % orjson.dumps(tier) if tier else b""
        self._edit = edit
        self._frames = Frames()
        self._adds = bool(self._prefix) or wants_usage
        self._tail = b""  # how plain frames of this stream end; see _learn_tail

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the engine, give whole frames for the caller."""
        tail = self._tail
        # Two looks at known places instead of a search for marks: 1 us per chunk instead of 5.
        if (
            tail
            and data.endswith(tail)
            and not self._frames.partial
            and (data.find(b"\n\n") == len(data) - 2 or data.count(tail) == data.count(b"\n\n"))
        ):
            return self._with_prefix(data) if self._adds else data
        block = self._frames.feed(data)
        if not block or self.ended:
            return b""
        return b"".join(self._frame(frame) for frame in split(block))

    @property
    def plain_end(self) -> bytes:
        """How frames end that go on as they are; b"" where all change, or one is incomplete."""
        if self._prefix or self._frames.partial:
            return b""
        return self._tail if not self._wants_usage or b'"usage"' in self._tail else b""

    async def close(self) -> bytes:
        """Nothing is left to say: the engine's own [DONE] has gone out."""
        return b""

    def failure(self, error: GatewayError) -> bytes:
        """Give the error frame, and the end that clients wait for."""
        return error_frame(error) + DONE

    def _with_prefix(self, block: bytes) -> bytes:
        prefix = self._prefix
        if self._wants_usage and b'"usage"' not in block:
            prefix += b'"usage":null,'
        if not prefix or not block.startswith(b"data: {"):
            return block
        opening = b"data: {" + prefix
        return opening + block[7:].replace(b"\n\ndata: {", b"\n\n" + opening)

    def _frame(self, frame: bytes) -> bytes:
        if self.ended:
            return b""
        data = data_of(frame)
        if data.startswith(b"[DONE]"):
            self.started = self.ended = True
            self._tail = b""
            return DONE
        if not data:
            return frame  # a comment: it keeps the connection
        document = chunk_of(data)
        self._learn(document)
        choices = document.get("choices")
        if choices == [] and "usage" in document and not self._wants_usage:
            return b""
        if not self.started and not _is_greeting(choices):
            self.started = True
        is_usual = frame.startswith(b"data: {")
        if self._edit is None and is_usual:
            self._learn_tail(frame, document)
        if self._mend(document) or not is_usual:
            frame = encode(document)
        return self._with_prefix(frame)

    def _mend(self, document: dict[str, Any]) -> bool:
        changed = self._edit is not None and self._edit(document)
        counts = document.get("choices") == [] and respell(document.get("usage"))
        return changed or counts

    def _learn_tail(self, frame: bytes, document: dict[str, Any]) -> None:
        """Keep the end of a plain frame, from its null finish reason on.

        Whatever ends like this is no end, no usage, no error and no abort. Frames of more than one
        choice could hide the end of another one, so that streams which have them keep none.
        """
        choices: list[Any] = document.get("choices") or []
        is_plain = self.started and len(choices) == 1 and document.get("usage") is None
        self._tail = b""
        if is_plain and choices[0].get("finish_reason") is None:
            at = frame.rfind(b'"finish_reason":')
            self._tail = frame[at:] if at >= 0 else b""

    def _learn(self, document: dict[str, Any]) -> None:
        if found := usage_of(document.get("usage")):
            self.usage = found
        for choice in document.get("choices") or ():
            reason = choice.get("finish_reason")
            if reason == "abort":
                raise EngineSaidNo(EngineBusy("The engine gave this call up.", retry_after_s=1.0))
            if reason is not None:
                self.finish_reasons = (*self.finish_reasons, str(reason))


def _is_greeting(choices: Any) -> bool:
    """Whether a frame only names the role: the engine may still refuse after it."""
    if not choices:
        return False
    return all(
        isinstance(choice.get("delta"), dict)
        and "role" in choice["delta"]
        and not any(v for k, v in choice["delta"].items() if k != "role")
        and choice.get("finish_reason") is None
        for choice in choices
    )


class VerbatimStream:
    """The editor for streams of other APIs: every byte goes on; an error frame first is told."""

    plain_end = b""

    def __init__(self, failure: Callable[[GatewayError], bytes] = error_frame) -> None:
        self.started = False
        self.ended = False
        self.usage: Usage | None = None
        self.finish_reasons: tuple[str, ...] = ()
        self._failure = failure
        self._frames = Frames()

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the engine, give whole frames for the caller."""
        block = self._frames.feed(data)
        if not block:
            return b""
        if not self.started:
            first = data_of(block)
            if first.startswith(b'{"error"'):
                raise EngineSaidNo(translate(error_of(500, first)))
            self.started = True
        if b'"usage"' in block or b"message_stop" in block or b"[DONE]" in block:
            for frame in split(block):
                self._learn(data_of(frame))
        return block

    async def close(self) -> bytes:
        """Nothing is left to say."""
        return b""

    def failure(self, error: GatewayError) -> bytes:
        """Give the error in the words of this API."""
        return self._failure(error)

    def _learn(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.ended = True
            return
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if isinstance(document, dict):
            # By its type alone: a tool may be called so, and its name is in other frames.
            self.ended = self.ended or document.get("type") == "message_stop"
            inner = document.get("message")
            found = document.get("usage") or (
                inner.get("usage") if isinstance(inner, dict) else None
            )
            self.usage = usage_of(found) or self.usage
