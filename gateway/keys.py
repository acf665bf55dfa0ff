"""Which keys are there, and what does each open?

In Redis a key is the hash `sluice:key:<id>`; the set `sluice:keys` holds all ids. Of the key itself
only its SHA-256 is kept: the key is 192 random bits, so a slow hash would protect nothing more.
"""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from redis.asyncio import Redis

from backends.clock import Clock
from gateway.call import NO_QUOTA, Principal, Quota
from gateway.replies import answer, text

PREFIX = "sk-sluice-"
_ID_ALPHABET = string.ascii_lowercase + string.digits
_SECRET_ALPHABET = string.ascii_letters + string.digits
_ID_LENGTH = 8
_SECRET_LENGTH = 33  # 33 * log2(62) = 196 bits
_SHAPE = re.compile(rf"{PREFIX}([a-z0-9]{{{_ID_LENGTH}}})-[A-Za-z0-9]{{{_SECRET_LENGTH}}}")

_IDS = "sluice:keys"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key opens. `models`, `classes` None: all of them; `expires_at` None: never.

    `quota` is what may be used with it; its tenant's limits hold besides.
    """

    name: str = ""
    tenant: str = "default"
    models: frozenset[str] | None = None
    classes: frozenset[str] | None = None
    default_class: str | None = None
    expires_at: float | None = None
    quota: Quota = NO_QUOTA


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as the store knows it: everything but the key."""

    id: str
    digest: str
    grant: Grant
    created_at: float
    revoked_at: float | None = None

    def matches(self, key: str) -> bool:
        """Whether this is the record of `key`; takes the same time for every answer."""
        return hmac.compare_digest(self.digest, digest_of(key))

    def is_expired(self, now: float) -> bool:
        """Whether the key's time is over at `now` (Unix seconds)."""
        return self.grant.expires_at is not None and self.grant.expires_at <= now

    def principal(self) -> Principal:
        """Give who calls with this key."""
        return Principal(
            key_id=self.id,
            tenant=self.grant.tenant,
            name=self.grant.name,
            models=self.grant.models,
            classes=self.grant.classes,
            default_class=self.grant.default_class,
            expires_at=self.grant.expires_at,
            quota=self.grant.quota.or_none(),
        )

    def shown(self) -> dict[str, Any]:
        """Give what may be shown of a key: everything but the key and its digest."""
        grant = self.grant
        return {
            "id": self.id,
            "name": grant.name,
            "tenant": grant.tenant,
            "models": None if grant.models is None else sorted(grant.models),
            "classes": None if grant.classes is None else sorted(grant.classes),
            "default_class": grant.default_class,
            "expires_at": grant.expires_at,
            **asdict(grant.quota),
            "created_at": self.created_at,
            "revoked_at": self.revoked_at,
        }


def digest_of(key: str) -> str:
    """Give the SHA-256 of a key in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(key: str) -> str | None:
    """Give the id inside a key; None for a text that cannot be a key of ours."""
    found = _SHAPE.fullmatch(key)
    return found[1] if found else None


def new_key() -> str:
    """Make a key: its id and 196 random bits."""
    chosen = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_LENGTH))
    return f"{PREFIX}{chosen}-{secret}"


class KeyStore:
    """Keys in Redis; every method may raise redis.RedisError or OSError when the store is away."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock

    async def create(self, grant: Grant) -> tuple[str, KeyRecord]:
        """Make a key; give it, which nobody can do a second time, and its record."""
        while True:
            key = new_key()
            if (record := await self.register(key, grant)).matches(key):
                return key, record

    async def register(self, key: str, grant: Grant) -> KeyRecord:
        """Store a key that was made before, unless its id is known; give the stored record."""
        key_id = id_of(key)
        if key_id is None:
            raise ValueError("not a key of this gateway")
        if (known := await self.find(key_id)) is not None:
            return known
        record = KeyRecord(key_id, digest_of(key), grant, self._clock.now())
        async with self._redis.pipeline(transaction=True) as batch:
            batch.hset(_hash_of(key_id), mapping=_fields(record))
            batch.sadd(_IDS, key_id)
            await batch.execute()
        return record

    async def find(self, key_id: str) -> KeyRecord | None:
        """Look a key up by its id."""
        return _record(key_id, await answer(self._redis.hgetall(_hash_of(key_id))))

    async def list(self) -> list[KeyRecord]:
        """Give all keys, oldest first, revoked ones too."""
        ids = sorted(text(each) for each in await answer(self._redis.smembers(_IDS)))
        async with self._redis.pipeline(transaction=False) as batch:
            for key_id in ids:
                batch.hgetall(_hash_of(key_id))
            found = await batch.execute()
        records = (_record(key_id, fields) for key_id, fields in zip(ids, found, strict=True))
        return sorted((r for r in records if r is not None), key=lambda r: (r.created_at, r.id))

    async def revoke(self, key_id: str) -> KeyRecord | None:
        """Close a key for good; give its record, None for an unknown id. May be repeated."""
        if await self.find(key_id) is None:
            return None
        await answer(self._redis.hsetnx(_hash_of(key_id), "revoked_at", repr(self._clock.now())))
        return await self.find(key_id)


def _hash_of(key_id: str) -> str:
    return f"sluice:key:{key_id}"


def _fields(record: KeyRecord) -> dict[Any, Any]:
    grant = record.grant
    optional = {
        "models": _joined(grant.models),
        "classes": _joined(grant.classes),
        "default_class": grant.default_class,
        "expires_at": None if grant.expires_at is None else repr(grant.expires_at),
        **asdict(grant.quota),
    }
    return {
        "digest": record.digest,
        "name": grant.name,
        "tenant": grant.tenant,
        "created_at": repr(record.created_at),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _record(key_id: str, fields: Mapping[Any, Any]) -> KeyRecord | None:
    found = {text(name): text(value) for name, value in fields.items()}
    if "digest" not in found:
        return None
    grant = Grant(
        name=found.get("name", ""),
        tenant=found.get("tenant", "default"),
        models=_split(found.get("models")),
        classes=_split(found.get("classes")),
        default_class=found.get("default_class"),
        expires_at=_number(found.get("expires_at")),
        quota=Quota(
            **{each.name: _whole(found.get(each.name)) for each in dataclass_fields(Quota)}
        ),
    )
    created_at = float(found["created_at"])
    revoked_at = _number(found.get("revoked_at"))
    return KeyRecord(key_id, found["digest"], grant, created_at, revoked_at)


def _joined(names: Iterable[str] | None) -> str | None:
    return None if names is None else " ".join(sorted(names))


def _split(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(text.split())


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)
