"""Whose key is this, also while the store is away?

What the store said of a key is believed for a few seconds, then asked again. While the store is
away the last answer stands, however old, and a key that was never seen is told to come back.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from redis import RedisError

from backends.clock import Clock
from gateway.call import Principal
from gateway.errors import BadKey, GatewayError, Unavailable
from gateway.keys import KeyRecord, KeyStore, digest_of, id_of

FRESH_S = 5.0  # so long may a revoked key live on
ASK_TIMEOUT_S = 2.0
STORE_REST_S = 1.0  # after a failure the store is left alone this long, and nobody waits for it
MOST_KNOWN = 100_000
MOST_UNKNOWN = 10_000

ANONYMOUS = Principal(key_id="anonymous", name="anonymous")


class StoreAway(Exception):
    """The store cannot be asked now."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the store said of a key (None: no such key), and when (monotonic)."""

    record: KeyRecord | None
    at: float
    principal: Principal | None = None


class Authenticator:
    """Turns a key into a Principal. `keys` None, or `no_auth`: everybody is the anonymous one."""

    def __init__(self, keys: KeyStore | None, clock: Clock, *, no_auth: bool = False) -> None:
        self._keys = None if no_auth else keys
        self._clock = clock
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._unknown: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._rests_until = float("-inf")

    async def identify(self, authorization: bytes | None, x_api_key: bytes | None) -> Principal:
        """Find who calls, from the values of the two headers.

        Raises BadKey, and Unavailable for a key not seen before while the store is away.
        """
        if self._keys is None:
            return ANONYMOUS
        key = _key_in(authorization, x_api_key)
        known = self._known.get(digest_of(key))
        if known is not None and self._clock.monotonic() < known.at + FRESH_S:
            return self._opened(known)
        key_id = id_of(key)
        if key_id is None:
            raise _incorrect()
        try:
            answer = await self._record(key_id, key, self._keys)
        except StoreAway:
            raise Unavailable(
                "Keys cannot be verified at the moment. Try again.",
                code="key_store_unavailable",
                retry_after_s=5.0,
            ) from None
        return self._opened(answer)

    def forget(self, key_id: str) -> None:
        """Ask the store again at this key's next use."""
        for digest, answer in [*self._known.items()]:
            if answer.record is not None and answer.record.id == key_id:
                del self._known[digest]

    def _opened(self, answer: _Answer) -> Principal:
        """Give who a key stands for; raise BadKey where it opens nothing (any more)."""
        record, principal = answer.record, answer.principal
        if record is None or principal is None or record.revoked_at is not None:
            raise _incorrect()
        if record.is_expired(self._clock.now()):
            raise BadKey("The API key has expired.")
        return principal

    async def _record(self, key_id: str, key: str, keys: KeyStore) -> _Answer:
        """Give what is known of a key; raise StoreAway."""
        digest = digest_of(key)
        now = self._clock.monotonic()
        answer = self._known.get(digest) or self._unknown.get(digest)
        if answer is not None and now < answer.at + FRESH_S:
            return answer
        try:
            if now < self._rests_until:
                raise StoreAway
            record = await self._ask(key_id, digest, keys)
        except StoreAway:
            if answer is not None and answer.record is not None:
                return answer
            raise
        if record is not None and not record.matches(key):
            record = None
        return self._remember(digest, record)

    async def _ask(self, key_id: str, digest: str, keys: KeyStore) -> KeyRecord | None:
        """Ask the store once for all who wait for the same key; a waiter that leaves stops none."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._find(key_id, keys), name="find key")
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _find(self, key_id: str, keys: KeyStore) -> KeyRecord | None:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await keys.find(key_id)
        except (RedisError, OSError, TimeoutError) as error:
            self._rests_until = self._clock.monotonic() + STORE_REST_S
            raise StoreAway from error

    def _remember(self, digest: str, record: KeyRecord | None) -> _Answer:
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        cache, most = (self._unknown, MOST_UNKNOWN) if record is None else (self._known, MOST_KNOWN)
        principal = None if record is None else record.principal()
        answer = cache[digest] = _Answer(record, self._clock.monotonic(), principal)
        if len(cache) > most:
            cache.popitem(last=False)
        return answer


def _key_in(authorization: bytes | None, x_api_key: bytes | None) -> str:
    """Find the key in `Authorization: Bearer`, else in `x-api-key`."""
    if authorization is not None and (given := authorization.strip()):
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            raise BadKey("The Authorization header must read 'Bearer' and then your API key.")
        given = key.strip()
    else:
        given = (x_api_key or b"").strip()
    if not given:
        raise _without_code(
            BadKey(
                "No API key was provided. Send it as 'Authorization: Bearer' and then your API key."
            )
        )
    return given.decode("latin-1")


def _without_code(error: GatewayError) -> GatewayError:
    error.code = None
    return error


def _incorrect() -> BadKey:
    return BadKey("Incorrect API key provided.")
