"""Authentication, with a store that can be taken away."""

import asyncio

import pytest
from redis.exceptions import ConnectionError

from backends.clock import SystemClock
from backends.store import connect
from gateway.auth import ANONYMOUS, FRESH_S, MOST_UNKNOWN, STORE_REST_S, Authenticator
from gateway.errors import BadKey, GatewayError, Unavailable, headers
from gateway.keys import Grant, KeyRecord, KeyStore, digest_of, id_of, new_key

STRANGE = f"sk-sluice-aaaaaaaa-{'b' * 33}"  # the shape of a key that nobody made


class HandClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, delay_s: float) -> None:
        self.at += delay_s


class Shelf(KeyStore):
    """Keys in memory; counts what it is asked, and can be away or slow."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.asked = 0
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.was_asked = asyncio.Event()

    def put(self, key: str, grant: Grant | None = None, revoked_at: float | None = None) -> str:
        key_id = id_of(key)
        assert key_id is not None
        self.records[key_id] = KeyRecord(key_id, digest_of(key), grant or Grant(), 0.0, revoked_at)
        return key_id

    async def find(self, key_id: str) -> KeyRecord | None:
        self.asked += 1
        self.was_asked.set()
        await self.gate.wait()
        if self.away:
            raise ConnectionError("gone")
        return self.records.get(key_id)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def auth(shelf: Shelf, clock: HandClock) -> Authenticator:
    return Authenticator(shelf, clock)


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


async def refusal(
    auth: Authenticator, authorization: bytes | None, x_api_key: bytes | None = None
) -> GatewayError:
    try:
        who = await auth.identify(authorization, x_api_key)
    except GatewayError as error:
        return error
    raise AssertionError(f"{who} was let in")


async def test_a_key_tells_who_calls_by_either_header(auth: Authenticator, shelf: Shelf) -> None:
    key = new_key()
    shelf.put(key, Grant(name="Ada", tenant="acme", models=frozenset({"m"})))
    who = await auth.identify(bearer(key), None)
    assert (who.name, who.tenant, who.may_use_model("x")) == ("Ada", "acme", False)
    assert await auth.identify(None, key.encode()) == who
    assert await auth.identify(b"bEARER   " + key.encode() + b" ", b"other") == who
    assert await auth.identify(b"  ", key.encode()) == who


@pytest.mark.parametrize(("given", "x"), [(None, None), (b"", b" "), (b"Bearer ", None)])
async def test_no_key_is_told_apart_from_a_wrong_one(
    auth: Authenticator, given: bytes | None, x: bytes | None
) -> None:
    error = await refusal(auth, given, x)
    assert isinstance(error, BadKey)
    assert headers(error)["www-authenticate"] == "Bearer"
    assert error.code is None


@pytest.mark.parametrize(
    "given",
    [
        bearer("sk-hidden"),
        bearer(STRANGE),
        b"Bearer \xff\xfe",
        b"Bearer a b c",
        b"Basic aGlkZGVu",
        b"hidden",
    ],
)
async def test_a_wrong_key_is_refused_and_never_repeated(auth: Authenticator, given: bytes) -> None:
    error = await refusal(auth, given)
    assert isinstance(error, BadKey)
    assert (error.status, error.code) == (401, "invalid_api_key")
    secret = given.decode("latin-1").split(" ", 1)[-1]
    assert secret not in error.message


async def test_texts_that_cannot_be_keys_do_not_reach_the_store(
    auth: Authenticator, shelf: Shelf
) -> None:
    await refusal(auth, bearer("sk-1234"))
    assert shelf.asked == 0


async def test_the_right_id_with_another_secret_is_refused(
    auth: Authenticator, shelf: Shelf
) -> None:
    key = new_key()
    key_id = shelf.put(key)
    forged = f"sk-sluice-{key_id}-{new_key().rsplit('-', 1)[1]}"
    assert isinstance(await refusal(auth, bearer(forged)), BadKey)
    assert (await auth.identify(bearer(key), None)).key_id == key_id


async def test_a_known_key_is_asked_for_once_in_a_while(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    key = new_key()
    shelf.put(key)
    for _ in range(5):
        await auth.identify(bearer(key), None)
    assert shelf.asked == 1
    clock.at += FRESH_S
    await auth.identify(bearer(key), None)
    assert shelf.asked == 2


async def test_a_revoked_key_lives_on_for_seconds_only(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    key = new_key()
    key_id = shelf.put(key)
    await auth.identify(bearer(key), None)
    shelf.put(key, revoked_at=clock.at)
    await auth.identify(bearer(key), None)
    clock.at += FRESH_S
    assert (await refusal(auth, bearer(key))).message == "Incorrect API key provided."
    shelf.put(key)
    auth.forget(key_id)
    await auth.identify(bearer(key), None)


async def test_a_key_ends_at_its_expiry_also_when_it_is_fresh_in_memory(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    key = new_key()
    shelf.put(key, Grant(expires_at=clock.at + 1.0))
    await auth.identify(bearer(key), None)
    clock.at += 1.0
    assert "expired" in (await refusal(auth, bearer(key))).message


async def test_an_outage_of_the_store_does_not_close_known_keys(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    known, strange = new_key(), new_key()
    shelf.put(known)
    shelf.put(strange)
    await auth.identify(bearer(known), None)
    shelf.away = True
    clock.at += 86_400.0
    await auth.identify(bearer(known), None)
    error = await refusal(auth, bearer(strange))
    assert isinstance(error, Unavailable)
    assert error.status == 503
    assert int(headers(error)["retry-after"]) >= 1
    shelf.away = False
    clock.at += STORE_REST_S
    await auth.identify(bearer(strange), None)


async def test_nobody_waits_for_a_store_that_has_just_failed(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    shelf.away = True
    await refusal(auth, bearer(new_key()))
    for _ in range(10):
        await refusal(auth, bearer(new_key()))
    assert shelf.asked == 1
    clock.at += STORE_REST_S
    await refusal(auth, bearer(new_key()))
    assert shelf.asked == 2


async def test_an_unknown_key_stays_unknown_for_seconds(
    auth: Authenticator, shelf: Shelf, clock: HandClock
) -> None:
    key = new_key()
    await refusal(auth, bearer(key))
    await refusal(auth, bearer(key))
    assert shelf.asked == 1
    shelf.put(key)
    clock.at += FRESH_S
    await auth.identify(bearer(key), None)


async def test_what_is_remembered_of_unknown_keys_is_bounded(auth: Authenticator) -> None:
    for _ in range(MOST_UNKNOWN + 5):
        await refusal(auth, bearer(new_key()))
    assert len(auth._unknown) == MOST_UNKNOWN


async def test_many_calls_with_one_key_ask_the_store_once(
    auth: Authenticator, shelf: Shelf
) -> None:
    key = new_key()
    shelf.put(key)
    shelf.gate.clear()
    calls = [asyncio.create_task(auth.identify(bearer(key), None)) for _ in range(8)]
    await shelf.was_asked.wait()
    calls[0].cancel()
    await asyncio.wait([calls[0]])
    shelf.gate.set()
    found = await asyncio.gather(*calls[1:])
    assert len(set(found)) == 1
    assert shelf.asked == 1


async def test_without_authentication_everybody_is_anonymous(shelf: Shelf) -> None:
    auth = Authenticator(shelf, SystemClock(), no_auth=True)
    assert await auth.identify(b"Basic nonsense", None) is ANONYMOUS
    assert ANONYMOUS.may_use_model("anything")


async def test_a_key_opens_the_gateway_through_a_real_store(redis_url: str) -> None:
    redis = connect(redis_url)
    try:
        keys = KeyStore(redis, SystemClock())
        auth = Authenticator(keys, SystemClock())
        key, record = await keys.create(Grant(tenant="acme"))
        assert (await auth.identify(bearer(key), None)).tenant == "acme"
        await keys.revoke(record.id)
        auth.forget(record.id)
        await refusal(auth, bearer(key))
    finally:
        await redis.aclose()


async def test_a_store_that_is_not_there_is_told_as_503() -> None:
    redis = connect("redis://127.0.0.1:1/0")
    auth = Authenticator(KeyStore(redis, SystemClock()), SystemClock())
    try:
        assert (await refusal(auth, bearer(new_key()))).status == 503
    finally:
        await redis.aclose()
