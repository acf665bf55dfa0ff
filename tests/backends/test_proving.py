"""Does a replica serve only after it has answered what its model should know?"""

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web
from redis.asyncio import Redis

from backends.canary import Canary, shipped
from backends.clock import SystemClock
from backends.fleet import Replica
from backends.proving import Unproven, examine, prove
from backends.registry import Registry
from backends.simulated.server import serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from backends.tenure import serve_replica
from tests.waiting import eventually

MODEL = "gpt-oss-120b"


def canary() -> Canary:
    """The canary that comes with Sluice."""
    found = shipped(MODEL)
    assert found is not None
    return found


def knowing(wrong: int = 0, **more: object) -> SimulatedSettings:
    """A replica that answers all but the last `wrong` questions."""
    asked = canary().questions
    known = tuple((q.ask, f"It is {q.expect[0]}.") for q in asked[: len(asked) - wrong])
    return SimulatedSettings(
        model=MODEL,
        answers=known,
        context_tokens=131_072,  # as its launch line says
        mean_output_tokens=4,
        **more,  # type: ignore[arg-type]
    )


def named(url: str) -> Replica:
    return Replica(id="one", model=MODEL, url=url)


class Hasty(SystemClock):
    """Looks again at once."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.01))


class Tenure:
    """One replica on its way into service."""

    def __init__(self, redis: Redis, redis_url: str, url: str) -> None:
        self.stop, self.is_leased = asyncio.Event(), asyncio.Event()
        self.said: list[str] = []
        self._registry = Registry(redis)

        async def proof(replica: Replica) -> None:
            await prove(replica, canary(), clock=Hasty(), say=self.said.append)

        self.task = asyncio.create_task(
            serve_replica(
                None,
                [named(url)],
                redis_url,
                stop=self.stop,
                drain_within_s=0.0,
                on_ready=self.is_leased.set,
                prove=proof,
                clock=Hasty(),
            )
        )

    async def is_registered(self) -> bool:
        await self._registry.refresh()
        return self._registry.fleet.standing("one") is not None

    async def ends(self) -> None:
        self.stop.set()
        async with asyncio.timeout(30):
            await self.task


async def test_a_replica_that_knows_its_answers_is_registered(redis: Redis, redis_url: str) -> None:
    async with serve_replicas(knowing()) as (engine,):
        tenure = Tenure(redis, redis_url, engine.url)
        async with asyncio.timeout(60):
            await tenure.is_leased.wait()
        assert await tenure.is_registered()
        count = 2 * len(canary().questions)
        assert tenure.said[-1].startswith(f"{count} of {count} canary answers are right")
        await tenure.ends()


async def test_a_replica_that_answers_wrongly_is_never_registered(
    redis: Redis, redis_url: str
) -> None:
    async with serve_replicas(knowing(wrong=3)) as (engine,):
        tenure = Tenure(redis, redis_url, engine.url)
        with pytest.raises(Unproven, match="is not registered: 28 of 34 canary") as caught:
            async with asyncio.timeout(60):
                await tenure.task
        assert "southern depot" in str(caught.value)
        assert "(expected: 5127)" in str(caught.value)
        assert not tenure.is_leased.is_set()
        assert not await tenure.is_registered()


async def test_an_engine_that_loads_is_waited_for(redis: Redis, redis_url: str) -> None:
    async with serve_replicas(knowing(faults=Faults(not_ready=True))) as (engine,):
        tenure = Tenure(redis, redis_url, engine.url)
        await eventually(lambda: bool(tenure.said))
        assert "status 503" in tenure.said[0]
        assert not await tenure.is_registered()
        engine.faults = replace(engine.faults, not_ready=False)
        async with asyncio.timeout(60):
            await tenure.is_leased.wait()
        await tenure.ends()


async def test_a_stop_is_heeded_while_an_engine_is_waited_for(
    redis: Redis, redis_url: str, free_port: int
) -> None:
    tenure = Tenure(redis, redis_url, f"http://127.0.0.1:{free_port}")
    await eventually(lambda: bool(tenure.said))
    await tenure.ends()
    assert not tenure.is_leased.is_set()


async def test_an_engine_that_ends_loses_its_place_until_it_has_proved_itself_again(
    redis: Redis, redis_url: str
) -> None:
    async with serve_replicas(knowing()) as (engine,):
        tenure = Tenure(redis, redis_url, engine.url)
        async with asyncio.timeout(60):
            await tenure.is_leased.wait()
        engine.faults = replace(engine.faults, not_ready=True)
        await asyncio.sleep(0.2)
        assert not tenure.task.done()  # one that is not ready is still the same
    with pytest.raises(Unproven, match="has ended: what comes in its place"):
        async with asyncio.timeout(30):
            await tenure.task
    assert not await tenure.is_registered()


async def test_every_question_is_asked_alone_and_among_all_others() -> None:
    running, most = 0, list[int]()

    async def answer(request: web.Request) -> web.Response:
        nonlocal running
        running += 1
        await request.json()
        for _ in range(50):
            await asyncio.sleep(0)
        most.append(running)
        running -= 1
        return web.json_response({"choices": [{"message": {"content": "no"}}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await examine(named(f"http://127.0.0.1:{runner.addresses[0][1]}"), canary())
    finally:
        await runner.cleanup()
    count = len(canary().questions)
    assert len(found.answers) == 2 * count
    assert most[:count] == [1] * count
    assert max(most[count:]) > 1
    assert not found.is_passed


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        (Faults(fail_rate=1.0), "status 500"),
        (Faults(refuse_rate=1.0), "status 503"),
    ],
)
async def test_no_answer_is_a_wrong_answer(faults: Faults, told: str) -> None:
    async with serve_replicas(knowing(faults=faults)) as (engine,):
        found = await examine(named(engine.url), canary())
    assert found.right == 0
    assert told in found.told()


async def test_an_engine_that_is_gone_has_no_answers(free_port: int) -> None:
    found = await examine(named(f"http://127.0.0.1:{free_port}"), canary())
    assert not found.is_passed
    assert "no answer: Client" in found.told()


async def test_an_answer_that_was_cut_off_while_thinking_is_wrong() -> None:
    """A model that reasons gives no content when its tokens are spent before the answer."""

    async def answer(_: web.Request) -> web.Response:
        message = {"role": "assistant", "content": None, "reasoning_content": "391? 391!"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "length"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await examine(named(f"http://127.0.0.1:{runner.addresses[0][1]}"), canary())
    finally:
        await runner.cleanup()
    assert found.right == 0
    assert "no text (length)" in found.told()
