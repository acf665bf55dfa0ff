"""How does an engine's chat stream become the events of a Responses stream?

The end is told from `close` alone, after the keeper has the whole response: a caller who has seen
`response.completed` can retrieve it. A response that could not be kept says `store: false`.
`[DONE]` is last, as the Open Responses specification asks.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from gateway.call import Usage
from gateway.errors import EngineBusy, EngineFailed, GatewayError
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.responses.document import Document, ending, failed, finished
from gateway.wire.responses.fields import NewId, new_id
from gateway.wire.responses.namespaces import Members
from gateway.wire.responses.output import NO_MEMBERS, Event, Output
from gateway.wire.sse import DONE, Frames, chunk_of, data_of, split
from gateway.wire.usage import usage_of

Keep = Callable[[Document], Awaitable[bool]]


class ResponsesStream:
    """The editor of one attempt; `document` is the response object as created.

    `told` events have gone out before: a background response was `created` and `queued` then, and
    its events are kept; who follows them is told `[DONE]` by `api/responses_follow`.
    """

    plain_end = b""  # every frame is reworded

    def __init__(
        self,
        document: Document,
        *,
        custom: frozenset[str],
        keep: Keep,
        now: Callable[[], float],
        ids: NewId = new_id,
        told: int = 0,
        members: Members = NO_MEMBERS,
    ) -> None:
        self.started = False
        self.ended = False
        self.usage: Usage | None = None
        self.finish_reasons: tuple[str, ...] = ()
        self._document = document
        self._keep = keep
        self._now = now
        self._output = Output(custom, ids, members)
        self._frames = Frames()
        self._number = told
        self._opening: tuple[str, ...] = ("in_progress",) if told else ("created", "in_progress")
        self._last = b"" if told else DONE

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the engine, give events for the caller.

        Raises EngineSaidNo on an error frame or an abort.
        """
        block = self._frames.feed(data)
        if not block or self.ended:
            return b""
        return b"".join(self._frame(data_of(frame)) for frame in split(block))

    async def close(self) -> bytes:
        """Keep the response, then give its last events."""
        lead = self._start()
        end = ending(self.finish_reasons[0] if self.finish_reasons else None)
        events = self._output.end(complete=end.complete)
        document = finished(self._document, self._output.items, end, self.usage, now=self._now())
        if document["store"] and not await self._keep(document):
            document["store"] = False
        events.append({"type": f"response.{end.status}", "response": document})
        return lead + self._encode(events) + self._last

    def failure(self, error: GatewayError) -> bytes:
        """Give `error`, then `response.failed` with what there is so far.

        The error is told twice in its event: flat, as OpenAI's reference has it, and as an object,
        as Open Responses has it; by that SDKs raise it, where they would else give half an answer.
        """
        lead = self._start()
        self._output.end(complete=False)
        document = failed(self._document, self._output.items, error)
        # What breaks before its caller's eyes is not kept; in the background it is.
        document["store"] = document["background"]
        told = {"code": error.code, "message": error.message, "param": error.param}
        inner = {"type": error.type, **told}
        return (
            lead
            + self._encode(
                [
                    {"type": "error", **told, "error": inner},
                    {"type": "response.failed", "response": document},
                ]
            )
            + self._last
        )

    def _frame(self, data: bytes) -> bytes:
        if self.ended or not data:
            return b""
        if data.startswith(b"[DONE]"):
            if not self.finish_reasons:
                raise EngineSaidNo(EngineFailed("The engine ended its answer without a reason."))
            self.started = self.ended = True
            return b""
        return self._chunk(chunk_of(data))

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        self.usage = usage_of(chunk.get("usage")) or self.usage
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            reason = choice.get("finish_reason")
            if reason == "abort":
                raise EngineSaidNo(EngineBusy("The engine gave this call up.", retry_after_s=1.0))
            events += self._output.add(choice.get("delta") or {}, choice.get("logprobs"))
            if reason is not None:
                self.finish_reasons = (*self.finish_reasons, str(reason))
        if not events and not self.finish_reasons:
            return b""
        return self._start() + self._encode(events)

    def _start(self) -> bytes:
        """Give the opening events, once."""
        names, self._opening = self._opening, ()
        self.started = True
        opening = {**self._document, "status": "in_progress"}
        return self._encode([{"type": f"response.{each}", "response": opening} for each in names])

    def _encode(self, events: list[Event]) -> bytes:
        block = encode(events, self._number)
        self._number += len(events)
        return block


def encode(events: list[Event], number: int) -> bytes:
    """Give events as frames, the first of which has this sequence number."""
    pieces = []
    for event in events:
        body = orjson.dumps({**event, "sequence_number": number})
        pieces.append(b"event: " + event["type"].encode() + b"\ndata: " + body + b"\n\n")
        number += 1
    return b"".join(pieces)
