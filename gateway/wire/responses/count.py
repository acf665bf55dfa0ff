"""How many tokens would a request to the Responses API put in, as the engine counts them?"""

from collections.abc import Mapping

import orjson

from gateway.call import Usage
from gateway.errors import EngineFailed, GatewayError, envelope, headers
from gateway.wire.dialect import EngineSaidNo, StreamEditor
from gateway.wire.sse import VerbatimStream


class CountDialect:
    """Turns what SGLang answers on `/v1/tokenize` into OpenAI's `response.input_tokens`."""

    def editor(self) -> StreamEditor:
        """Counting does not stream."""
        return VerbatimStream()

    async def document(self, body: bytes) -> tuple[bytes, Usage | None, tuple[str, ...]]:
        """Give the count alone."""
        try:
            count = orjson.loads(body)["count"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            count = None
        if not isinstance(count, int):
            raise EngineSaidNo(EngineFailed("The engine's answer could not be read."))
        counted = {"object": "response.input_tokens", "input_tokens": count}
        return orjson.dumps(counted), Usage(prompt_tokens=count), ()

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in OpenAI's envelope."""
        return orjson.dumps(envelope(error)), headers(error)
