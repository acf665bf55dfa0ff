"""Which routes does a simulated replica have, and what stands before them?"""

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from backends.simulated.fields import NotAnObject
from backends.simulated.refusals import Refusal, refused
from backends.simulated.replica import SimulatedReplica

_OPEN_PREFIXES = ("/health", "/ready", "/metrics")
_BODY_LIMIT_BYTES = 1 << 30  # SGLang has none

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(replica: SimulatedReplica) -> web.Application:
    """Give the application of one replica."""
    app = web.Application(middlewares=[_edge(replica)], client_max_size=_BODY_LIMIT_BYTES)
    app.on_response_prepare.append(_name_the_server)
    for path, handler in _posts(replica).items():
        app.router.add_post(path, handler)
    for path, handler in _gets(replica).items():
        app.router.add_get(path, handler)
    return app


def _posts(replica: SimulatedReplica) -> dict[str, Handler]:
    pages = replica.pages
    routes: dict[str, Handler] = {
        "/v1/chat/completions": replica.chat,
        "/v1/completions": replica.completions,
        "/generate": replica.generate,
        "/v1/messages": replica.messages,
        "/v1/messages/count_tokens": pages.count_tokens,
        "/v1/embeddings": pages.pooled(pages.embeddings),
        "/v1/rerank": pages.pooled(pages.rerank),
        "/v1/score": pages.pooled(pages.score),
        "/v1/classify": pages.pooled(pages.classify),
        "/abort_request": replica.abort_request,
        "/flush_cache": pages.flush_cache,
    }
    for prefix in ("", "/v1"):
        routes[f"{prefix}/tokenize"] = pages.tokenize
        routes[f"{prefix}/detokenize"] = pages.detokenize
    return routes


def _gets(replica: SimulatedReplica) -> dict[str, Handler]:
    pages = replica.pages
    return {
        "/health": replica.health,
        "/health_generate": replica.health,
        "/ready": replica.health,
        "/ping": pages.ping,
        "/v1/loads": pages.loads,
        "/metrics": pages.metrics,
        "/v1/models": pages.models,
        "/v1/models/{id:.+}": pages.model,
        "/model_info": pages.model_info,
        "/get_model_info": pages.model_info,
        "/server_info": pages.server_info,
        "/get_server_info": pages.server_info,
    }


def _edge(replica: SimulatedReplica) -> Middleware:
    key = replica.settings.api_key
    expected = f"Bearer {key}" if key else None

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask for the key, and turn refusals into SGLang's answers."""
        if replica.faults.hang_accept:
            await asyncio.get_running_loop().create_future()
        if expected and not _may_pass(request, expected):
            return _object({"error": "Unauthorized"}, 401)
        try:
            return await handler(request)
        except Refusal as refusal:
            return refused(refusal, request)
        except NotAnObject:
            return web.Response(status=500, text="Internal Server Error")
        except web.HTTPException as error:
            return _object({"detail": error.reason}, error.status)

    return edge


def _may_pass(request: web.Request, expected: str) -> bool:
    is_open = request.path.startswith(_OPEN_PREFIXES)
    return is_open or request.headers.get("Authorization") == expected


def _object(body: dict[str, str], status: int) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")


async def _name_the_server(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "uvicorn"
