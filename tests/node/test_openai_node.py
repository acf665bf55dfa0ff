"""The `openai` package for Node.js, unmodified: what its users do works as they know it."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conformance.conftest import SERVED, Served
from tests.gateways import until

HERE = Path(__file__).parent
WITHIN_S = 60.0

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(
        shutil.which("node") is None or not (HERE / "node_modules" / "openai").is_dir(),
        reason="needs Node.js and `npm ci` in tests/node",
    ),
]

Told = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
async def told(served: Served) -> Told:
    """What one run of the script has said, by step."""
    process = await asyncio.create_subprocess_exec(
        *("node", "chat.mjs", served.base_url, served.key, SERVED),
        cwd=HERE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    found = {line["step"]: line for line in map(orjson.loads, output.splitlines())}
    await until(lambda: not any(served.gateway.leftovers().values()))
    await until(lambda: not any(replica.live_calls for replica in served.replicas))
    return found


def of(told: Told, step: str) -> dict[str, Any]:
    """Give what a step has said; it must not have failed."""
    assert "unexpected" not in told[step], told[step]
    return told[step]


async def test_a_chat_is_answered(told: Told) -> None:
    unary = of(told, "unary")
    assert unary["content"]
    assert unary["requestId"].startswith("req_")


@pytest.mark.parametrize("step", ["stream", "helper"])
async def test_a_stream_gives_text_and_usage(told: Told, step: str) -> None:
    found = of(told, step)
    assert found["content"]
    assert found["usage"]["completion_tokens"] > 0


async def test_the_stream_helper_gathers_tool_calls(told: Told) -> None:
    found = of(told, "toolsHelper")
    assert found["names"] == ["get_weather"]
    assert found["name"] == "get_weather"
    assert set(found["arguments"]) == {"city"}


async def test_tools_are_run(told: Told) -> None:
    assert of(told, "runTools")["ran"] >= 1


async def test_a_stream_can_be_aborted(told: Told) -> None:
    # That nothing is left of it is checked where the script ends.
    assert of(told, "abort")["chunks"] >= 3


async def test_embeddings_are_numbers(told: Told) -> None:
    found = of(told, "embeddings")
    assert (found["vectors"], found["numbers"]) == (2, "number")


async def test_a_model_with_a_slash_is_found(told: Told) -> None:
    found = of(told, "models")
    assert SERVED in found["ids"]
    assert found["one"] == SERVED


async def test_responses_are_made_and_streamed(told: Told) -> None:
    found = of(told, "responses")
    assert found["text"]
    assert (found["last"], found["status"]) == ("response.completed", "completed")


@pytest.mark.parametrize(
    ("step", "kind", "status", "code"),
    [
        ("badRequest", "BadRequestError", 400, "invalid_value"),
        ("halfAnEmoji", "BadRequestError", 400, "invalid_json"),
        ("unknownModel", "NotFoundError", 404, "model_not_found"),
        ("wrongKey", "AuthenticationError", 401, "invalid_api_key"),
        ("tooLarge", "APIError", 413, "request_too_large"),
    ],
)
async def test_errors_have_their_classes(
    told: Told, step: str, kind: str, status: int, code: str
) -> None:
    found = of(told, step)
    assert (found["kind"], found["status"], found["code"]) == (kind, status, code)
    assert found["requestId"]
    if step == "halfAnEmoji":
        assert "surrogate" in found["message"]
