"""Keys on a real store."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from backends.clock import SystemClock
from backends.store import connect
from gateway.keys import Grant, KeyStore, digest_of, id_of, new_key


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    found = connect(redis_url)
    yield found
    await found.aclose()


@pytest.fixture
def keys(client: Redis) -> KeyStore:
    return KeyStore(client, SystemClock())


def test_a_key_has_at_least_160_random_bits_and_its_id_inside() -> None:
    key = new_key()
    assert key.startswith("sk-sluice-")
    assert id_of(key) == key.split("-")[2]
    assert 62 ** len(key.split("-")[3]) >= 2**160
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["", "sk-other", "sk-sluice-abc-def", f"sk-sluice-aaaaaaaa-{'b' * 34}", "ключ"]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert id_of(text) is None


async def test_a_record_comes_back_as_it_was_made(keys: KeyStore) -> None:
    grant = Grant(
        name="Ada's",
        tenant="acme",
        models=frozenset({"a/b", "c"}),
        classes=frozenset({"server"}),
        default_class="server",
        expires_at=2e9,
    )
    key, record = await keys.create(grant)
    found = await keys.find(record.id)
    assert found == record
    assert found is not None
    assert found.grant == grant
    assert found.matches(key)
    assert not found.matches(new_key())
    assert found.principal().may_use_model("a/b")
    assert not found.principal().may_use_class("offline")


async def test_a_key_of_no_models_is_not_one_of_all(keys: KeyStore) -> None:
    _, record = await keys.create(Grant(models=frozenset()))
    found = await keys.find(record.id)
    assert found is not None
    assert found.grant.models == frozenset()
    assert found.grant.classes is None


async def test_the_store_never_holds_the_key(keys: KeyStore, client: Redis) -> None:
    key, record = await keys.create(Grant())
    stored = await client.hgetall(f"sluice:key:{record.id}")
    assert digest_of(key).encode() in stored.values()
    assert all(key.rsplit("-", 1)[1].encode() not in value for value in stored.values())


async def test_keys_are_listed_oldest_first_and_revoked_ones_stay(keys: KeyStore) -> None:
    made = [(await keys.create(Grant(name=str(n))))[1].id for n in range(3)]
    revoked = await keys.revoke(made[1])
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await keys.revoke(made[1]) == revoked
    assert [(r.id, r.revoked_at is None) for r in await keys.list()] == [
        (made[0], True),
        (made[1], False),
        (made[2], True),
    ]


async def test_an_unknown_id_cannot_be_revoked(keys: KeyStore) -> None:
    assert await keys.revoke("aaaaaaaa") is None
    assert await keys.list() == []


async def test_a_key_that_was_made_before_is_registered_once(keys: KeyStore) -> None:
    key = new_key()
    first = await keys.register(key, Grant(name="first"))
    again = await keys.register(key, Grant(name="again"))
    assert again == first
    with pytest.raises(ValueError, match="not a key"):
        await keys.register("sk-else", Grant())
