"""What does a simulated replica answer where nothing is generated?"""

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from backends.clock import Clock
from backends.simulated import pooling, reports
from backends.simulated.dialects.messages import as_chat
from backends.simulated.driver import Driver
from backends.simulated.fields import Body, messages_of, parse, rendered, text_or_ids
from backends.simulated.settings import SimulatedSettings
from backends.simulated.words import count_tokens, token_ids


class Pages:
    """The handlers of the routes that follow from the body, the settings or the engine's state."""

    def __init__(self, settings: SimulatedSettings, driver: Driver, clock: Clock) -> None:
        self.settings = settings
        self.driver = driver
        self._clock = clock
        self._created = int(clock.now())

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /v1/tokenize, /tokenize."""
        body = await body_of(request)
        if body.get("messages") is not None:
            prompts = [rendered(messages_of(body), body.get("tools"))]
            many = False
        else:
            prompts = text_or_ids(body.get("prompt"), "prompt")
            many = isinstance(body.get("prompt"), list)
        tokens = [token_ids(p) for p in prompts]
        answer = {
            "tokens": tokens if many else tokens[0],
            "count": [len(t) for t in tokens] if many else len(tokens[0]),
            "max_model_len": self.settings.context,
        }
        return json_of(orjson.dumps(answer))

    async def detokenize(self, request: web.Request) -> web.Response:
        """POST /v1/detokenize, /detokenize."""
        body = await body_of(request)
        tokens = body.get("tokens")
        if tokens == []:
            return json_of(orjson.dumps({"text": ""}))
        texts = text_or_ids(tokens, "tokens")
        many = isinstance(tokens, list) and isinstance(tokens[0], list)
        return json_of(orjson.dumps({"text": texts if many else texts[0]}))

    async def count_tokens(self, request: web.Request) -> web.Response:
        """POST /v1/messages/count_tokens."""
        chat = as_chat(await body_of(request), counting=True)
        prompt = rendered(messages_of(chat), chat.get("tools"))
        return json_of(orjson.dumps({"input_tokens": count_tokens(prompt)}))

    def pooled(
        self, answer: Callable[[Body], object]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Give the handler of a route whose answer follows from its body alone."""

        async def handle(request: web.Request) -> web.Response:
            return json_of(orjson.dumps(answer(await body_of(request))))

        return handle

    def embeddings(self, body: Body) -> object:
        """Answer /v1/embeddings."""
        return pooling.embeddings(body, self.settings.model, self.settings.embedding_size)

    def rerank(self, body: Body) -> object:
        """Answer /v1/rerank."""
        return pooling.rerank(body)

    def score(self, body: Body) -> object:
        """Answer /v1/score."""
        return pooling.score(body, self.settings.model)

    def classify(self, body: Body) -> object:
        """Answer /v1/classify."""
        return pooling.classify(body, self.settings.model)

    async def ping(self, request: web.Request) -> web.Response:
        """GET /ping."""
        return web.Response()

    async def loads(self, request: web.Request) -> web.Response:
        """GET /v1/loads."""
        wanted = frozenset(filter(None, request.query.get("include", "").split(",")))
        report = reports.loads(self.driver.core, self._clock.now(), wanted)
        if request.query.get("dp_rank", "0") != "0":
            report["loads"] = []
        return json_of(orjson.dumps(report))

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics."""
        text = reports.metrics(self.driver.core, self.settings.model, self._clock.now())
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        card = reports.model_card(self.settings, self._created)
        return json_of(orjson.dumps({"object": "list", "data": [card]}))

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{id}."""
        name = request.match_info["id"]
        if name == self.settings.model:
            return json_of(orjson.dumps(reports.model_card(self.settings, self._created)))
        error = {
            "message": f"The model '{name}' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        return json_of(orjson.dumps({"error": error}), status=404)

    async def model_info(self, request: web.Request) -> web.Response:
        """GET /model_info, /get_model_info."""
        return json_of(orjson.dumps(reports.model_info(self.settings)))

    async def server_info(self, request: web.Request) -> web.Response:
        """GET /server_info, /get_server_info."""
        return json_of(orjson.dumps(reports.server_info(self.settings, self.driver.core)))

    async def flush_cache(self, request: web.Request) -> web.Response:
        """POST /flush_cache."""
        done = self.driver.core.forget_prefixes()
        return web.Response(status=200 if done else 400, text="Cache flushed.\n" if done else "")


async def body_of(request: web.Request) -> dict[str, object]:
    """Read a request's JSON object."""
    return parse(await request.read(), request.headers.get("Content-Type", "application/json"))


def json_of(body: bytes, status: int = 200) -> web.Response:
    """Give an answer that is encoded already."""
    return web.Response(body=body, status=status, content_type="application/json")
