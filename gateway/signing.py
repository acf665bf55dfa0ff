"""Which links open an artifact without a key, and until when?

`<path>?expires=<Unix seconds>&signature=<HMAC-SHA256 of path and instant>`; the secret is made once
and shared by all gateways through the store.
"""

import base64
import hashlib
import hmac
import math
import secrets

from redis.asyncio import Redis

from gateway.replies import answer

KEY = "sluice:signing-secret"


class Signer:
    """Signs paths, and checks them."""

    def __init__(self, redis: Redis, *, good_for_s: float) -> None:
        self._redis = redis
        self._good_for_s = good_for_s
        self._secret: bytes | None = None

    async def sign(self, path: str, *, now: float) -> str:
        """Give a link to a path that is good for a while; raises redis.exceptions.RedisError."""
        expires = math.ceil(now + self._good_for_s)
        return f"{path}?expires={expires}&signature={self._mark(await self._key(), path, expires)}"

    async def is_good(self, path: str, expires: int, signature: str, *, now: float) -> bool:
        """Whether a link holds."""
        expected = self._mark(await self._key(), path, expires)
        return hmac.compare_digest(expected.encode(), signature.encode()) and now <= expires

    @staticmethod
    def _mark(secret: bytes, path: str, expires: int) -> str:
        digest = hmac.new(secret, f"{path}\n{expires}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def _key(self) -> bytes:
        if self._secret is None:
            await answer(self._redis.set(KEY, secrets.token_bytes(32), nx=True))
            self._secret = await answer(self._redis.get(KEY))
        if self._secret is None:
            raise OSError("the signing secret is gone")
        return self._secret
