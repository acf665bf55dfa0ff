"""What follows a call is done in a row, in order, and before anybody reads it."""

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from gateway.afterwards import Afterwards
from gateway.meters import Counts


async def test_work_is_done_in_the_next_turn_of_the_loop_and_in_order() -> None:
    done: list[int] = []
    afterwards = Afterwards()
    for number in range(3):
        afterwards(lambda n=number: done.append(n))  # type: ignore[misc]
    assert done == []
    await asyncio.sleep(0)
    assert done == [0, 1, 2]


async def test_work_that_fails_stops_no_other() -> None:
    done: list[str] = []
    afterwards = Afterwards()
    afterwards(lambda: done.append("one"))
    afterwards(lambda: 1 // 0)  # type: ignore[arg-type]
    afterwards(lambda: done.append("three"))
    afterwards.catch_up()
    assert done == ["one", "three"]


async def test_metrics_that_are_read_are_those_of_all_calls_that_have_ended() -> None:
    registry = CollectorRegistry()
    afterwards = Afterwards()
    registry.register(afterwards)
    calls = Counts("calls", "Calls.", [], registry)
    afterwards(lambda: calls.labels().inc())
    assert b"calls_total 1.0" in generate_latest(registry)
