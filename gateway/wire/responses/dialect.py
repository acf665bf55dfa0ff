"""How is one call of the Responses API worded to its caller?"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.call import Usage
from gateway.errors import EngineBusy, EngineFailed, GatewayError, envelope, headers
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.responses.document import Document, ending, finished
from gateway.wire.responses.fields import NewId, new_id
from gateway.wire.responses.namespaces import Members
from gateway.wire.responses.output import NO_MEMBERS, Output
from gateway.wire.responses.stream import Keep, ResponsesStream
from gateway.wire.usage import usage_of


class ResponsesDialect:
    """Answers of one response: `document` as created, `keep` to store it when it has ended.

    `keep` tells whether it could; it is not asked where the caller wants nothing stored. The id of
    the response is the same in every event, in the document and in the store. `told` events have
    gone out before the engine is asked.
    """

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
        self._document = document
        self._custom = custom
        self._keep = keep
        self._now = now
        self._ids = ids
        self._told = told
        self._members = members

    @property
    def created(self) -> Document:
        """The response object as it is before the answer."""
        return self._document

    def editor(self) -> ResponsesStream:
        """Make an editor for one attempt's stream."""
        return ResponsesStream(
            self._document,
            custom=self._custom,
            keep=self._keep,
            now=self._now,
            ids=self._ids,
            told=self._told,
            members=self._members,
        )

    async def document(self, body: bytes) -> tuple[bytes, Usage | None, tuple[str, ...]]:
        """Turn a chat completion into a response object, kept before it is told."""
        choice, usage = read_completion(body)
        reason = choice.get("finish_reason")
        output = Output(self._custom, self._ids, self._members)
        output.add(choice["message"], choice.get("logprobs"))
        end = ending(reason)
        output.end(complete=end.complete)
        whole = finished(self._document, output.items, end, usage, now=self._now())
        if whole["store"] and not await self._keep(whole):
            whole["store"] = False
        return orjson.dumps(whole), usage, () if reason is None else (str(reason),)

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give OpenAI's error body: before the first event a refusal is a status."""
        return orjson.dumps(envelope(error)), headers(error)


def read_completion(body: bytes) -> tuple[dict[str, Any], Usage | None]:
    """Give a chat completion's only choice and its usage.

    Raises EngineSaidNo where the engine aborted, or answered something else.
    """
    try:
        completion = orjson.loads(body)
        choice = completion["choices"][0]
        if not isinstance(choice["message"], dict):
            raise TypeError
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise EngineSaidNo(EngineFailed("The engine's answer could not be read.")) from error
    if choice.get("finish_reason") == "abort":
        raise EngineSaidNo(EngineBusy("The engine gave this call up.", retry_after_s=1.0))
    return choice, usage_of(completion.get("usage"))
