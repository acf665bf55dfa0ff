"""One engine behind one gateway, and a client that checks what holds for every answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tests.gateways import RunningGateway
from tests.waiting import eventually

# What the engine of these tests is started with: few slots and a short queue, so that both fill.
MAX_RUNNING = 4
MAX_QUEUED = 4
CONTEXT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """What the error envelope holds."""
        found: dict[str, Any] = self.document["error"]
        return found

    @property
    def frames(self) -> list[Any]:
        """The frames of a stream that has ended with [DONE], each as JSON."""
        parts = self.body.decode().split("\n\n")
        assert parts[-2:] == ["data: [DONE]", ""], parts[-2:]
        assert all(part.startswith("data: ") for part in parts[:-1])
        return [orjson.loads(part[6:]) for part in parts[:-2]]

    def text(self, index: int = 0) -> str:
        """The text of one choice of a stream."""
        choices = [c for f in self.frames for c in f["choices"] if c["index"] == index]
        return "".join(c["delta"].get("content") or "" for c in choices)


@dataclass(frozen=True)
class Site:
    """A gateway, the engine behind it, and what they call the model."""

    gateway: RunningGateway
    engine_url: str
    model: str
    is_real: bool
    session: aiohttp.ClientSession

    def chat(self, text: str = "Hello there", /, **more: Any) -> dict[str, Any]:
        """Give a chat's body."""
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, "max_tokens": 8, **more}

    async def post(self, path: str, body: object, headers: Mapping[str, str] = {}) -> Answer:
        """Send a body and check what every answer must have."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"content-type": "application/json", **headers}
        url = f"{self.gateway.url}{path}"
        async with self.session.post(url, data=data, headers=headers) as reply:
            return checked(path, Answer(reply.status, reply.headers, await reply.read()))

    async def get(self, path: str, headers: Mapping[str, str] = {}) -> Answer:
        """Ask for a document."""
        async with self.session.get(f"{self.gateway.url}{path}", headers=headers) as reply:
            return checked(path, Answer(reply.status, reply.headers, await reply.read()))

    async def engine_load(self) -> tuple[int, int]:
        """Calls that run and that wait, as the engine itself says."""
        async with self.session.get(f"{self.engine_url}/v1/loads?include=core") as reply:
            (rank,) = (await reply.json())["loads"]
            return rank["num_running_reqs"], rank["num_waiting_reqs"]

    async def is_idle(self) -> bool:
        """Whether neither the gateway nor the engine has anything left to do."""
        return not any(self.gateway.leftovers().values()) and await self.engine_load() == (0, 0)


def checked(path: str, answer: Answer) -> Answer:
    """Fail unless the answer has an id and a duration, and an error the envelope of its API."""
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"].isdecimal()
    if answer.status >= 400:
        error = answer.error
        if path.startswith("/v1/messages"):
            assert set(error) == {"type", "message"}
            assert answer.document["type"] == "error"
        else:
            assert set(error) == {"message", "type", "param", "code"}
            assert isinstance(error["code"], str)
        assert isinstance(error["message"], str)
        assert error["message"]
        for leak in ("Traceback", ".py", "site-packages", "/home", "127.0.0.1"):
            assert leak not in error["message"]
    return answer


async def until_idle(site: Site) -> None:
    """Wait until nothing is left to do."""
    await eventually(site.is_idle)
