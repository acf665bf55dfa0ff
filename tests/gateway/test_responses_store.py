from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from backends.store import connect
from gateway.errors import ContextLengthExceeded, InvalidRequest, Unavailable
from gateway.responses_background import DEAD_AFTER_S, settled
from gateway.responses_record import History, Stored
from gateway.responses_store import ResponsesStore, TooLarge

TTL_S = 1_000


@pytest.fixture
def store(redis: Redis) -> ResponsesStore:
    return ResponsesStore(redis, ttl_s=TTL_S, max_bytes=10_000)


def item(name: str) -> dict[str, Any]:
    return {"type": "message", "id": name, "role": "user", "content": []}


def response(name: str, status: str = "completed", **more: Any) -> dict[str, Any]:
    output = [item(f"msg_out_{name}")] if status == "completed" else []
    return {"id": f"resp_{name}", "status": status, "output": output, "usage": None, **more}


def stored(name: str, status: str = "completed", chain: tuple[str, ...] = ()) -> Stored:
    return Stored(response(name, status), [item(f"msg_in_{name}")], chain)


async def test_what_is_kept_is_found_again(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", chain=("resp_0",)))
    assert await store.find("a", "resp_1") == stored("1", chain=("resp_0",))


async def test_a_tenant_sees_its_own_only(store: ResponsesStore) -> None:
    await store.keep("a", stored("1"))
    assert await store.find("b", "resp_1") is None
    assert not await store.delete("b", "resp_1")
    assert await store.find_items("b", ["msg_in_1"]) == {}
    with pytest.raises(InvalidRequest):
        await store.history("b", "resp_1")
    assert await store.find("a", "resp_1") is not None


@pytest.mark.parametrize("odd", ["", "resp_", "x", "resp_1:2", "resp_*", "resp_" + "a" * 99, "r\n"])
async def test_odd_ids_are_not_found(store: ResponsesStore, odd: str) -> None:
    assert await store.find("a", odd) is None


async def test_everything_expires(store: ResponsesStore, redis: Redis) -> None:
    await store.keep("a", stored("1"))
    await store.add_events("a", "resp_1", 0, [b"x"])
    keys = await redis.keys("sluice:response*")
    assert len(keys) == 4
    assert all([0 < await redis.ttl(key) <= 3_600 for key in keys])


async def test_deleting_leaves_nothing(store: ResponsesStore, redis: Redis) -> None:
    await store.keep("a", stored("1"))
    await store.add_events("a", "resp_1", 0, [b"x"])
    assert await store.delete("a", "resp_1")
    assert not await store.delete("a", "resp_1")
    assert await redis.keys("sluice:response*") == []


async def test_a_conversation_is_all_items_in_order(store: ResponsesStore, redis: Redis) -> None:
    await store.keep("a", stored("1"))
    await store.keep("a", stored("2", chain=("resp_1",)))
    await store.keep("a", stored("3", chain=("resp_1", "resp_2")))
    await redis.expire("sluice:response:a:resp_1", 5)
    found = await store.history("a", "resp_3")
    assert found == History(
        tuple(item(f"msg_{side}_{n}") for n in (1, 2, 3) for side in ("in", "out")),
        ("resp_1", "resp_2", "resp_3"),
    )
    assert await redis.ttl("sluice:response:a:resp_1") > 5


async def test_a_broken_conversation_is_refused(store: ResponsesStore) -> None:
    await store.keep("a", stored("1"))
    await store.keep("a", stored("2", chain=("resp_1",)))
    await store.delete("a", "resp_1")
    with pytest.raises(InvalidRequest) as caught:
        await store.history("a", "resp_2")
    assert caught.value.param == "previous_response_id"
    assert caught.value.code == "previous_response_not_found"


async def test_a_response_that_runs_cannot_be_followed(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", "in_progress"))
    with pytest.raises(InvalidRequest, match="not ended"):
        await store.history("a", "resp_1")


async def test_a_conversation_has_an_end(store: ResponsesStore) -> None:
    await store.keep("a", Stored(response("x", output=[]), [], ("resp_1",) * 2_000))
    with pytest.raises(ContextLengthExceeded):
        await store.history("a", "resp_x")


async def test_items_are_found_by_id(store: ResponsesStore) -> None:
    await store.keep("a", stored("1"))
    found = await store.find_items("a", ["msg_out_1", "msg_in_1", "msg_odd", "x:y"])
    assert found == {name: item(name) for name in ("msg_in_1", "msg_out_1")}


async def test_what_is_too_large_is_not_kept(store: ResponsesStore) -> None:
    large = Stored(response("1"), [{**item("msg_1"), "content": "x" * 10_000}])
    with pytest.raises(TooLarge):
        await store.keep("a", large)
    assert await store.find("a", "resp_1") is None


async def test_a_response_ends_once(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", "queued"))
    assert await store.advance("a", response("1", "in_progress")) == "in_progress"
    assert await store.advance("a", response("1")) == "completed"
    assert await store.advance("a", response("1", "cancelled")) == "completed"
    found = await store.find("a", "resp_1")
    assert found is not None
    assert found.document == response("1")
    assert found.input == [item("msg_in_1")]
    assert await store.find_items("a", ["msg_out_1"]) != {}


async def test_a_deleted_response_does_not_come_back(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", "queued"))
    await store.delete("a", "resp_1")
    assert await store.advance("a", response("1")) is None
    assert await store.beat([("a", "resp_1")], now=5.0) == [None]
    assert await store.find("a", "resp_1") is None


async def test_a_beat_tells_the_status(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", "queued"))
    await store.keep("a", stored("2", "cancelled"))
    assert await store.beat([("a", "resp_1"), ("a", "resp_2")], now=5.0) == ["queued", "cancelled"]
    found = await store.find("a", "resp_1")
    assert found is not None
    assert found.alive_at == 5.0


async def test_who_looks_ends_what_a_dead_gateway_left(store: ResponsesStore) -> None:
    await store.keep("a", stored("1", "in_progress"))
    await store.beat([("a", "resp_1")], now=1_000.0)
    alive = await settled(store, "a", "resp_1", now=1_000.0 + DEAD_AFTER_S)
    assert alive is not None
    assert not alive.has_ended
    dead = await settled(store, "a", "resp_1", now=1_001.0 + DEAD_AFTER_S)
    assert dead is not None
    assert dead.document["status"] == "failed"
    assert dead.document["error"]["code"] == "server_error"


async def test_events_are_read_from_any_number_on(store: ResponsesStore) -> None:
    assert await store.events("a", "resp_1", -1) is None
    await store.add_events("a", "resp_1", 0, [b"0", b"1"])
    await store.add_events("a", "resp_1", 2, [b"2"])
    await store.add_events("a", "resp_1", 2, [b"2", b"3"])
    assert await store.events("a", "resp_1", -1) == [b"0", b"1", b"2", b"3"]
    assert await store.events("a", "resp_1", 1) == [b"2", b"3"]
    assert await store.events("a", "resp_1", 3) == []


@pytest.fixture
async def nowhere() -> AsyncIterator[ResponsesStore]:
    client = connect("unix:///nonexistent/store.sock")
    yield ResponsesStore(client, ttl_s=TTL_S, max_bytes=10_000)
    await client.aclose()


async def test_without_the_store_callers_are_told_when_to_come_back(
    nowhere: ResponsesStore,
) -> None:
    tries = (
        nowhere.find("a", "resp_1"),
        nowhere.keep("a", stored("1")),
        nowhere.advance("a", response("1")),
        nowhere.history("a", "resp_1"),
        nowhere.delete("a", "resp_1"),
        nowhere.events("a", "resp_1", -1),
        nowhere.find_items("a", ["msg_1"]),
    )
    for attempt in tries:
        with pytest.raises(Unavailable) as caught:
            await attempt
        assert caught.value.retry_after_s
