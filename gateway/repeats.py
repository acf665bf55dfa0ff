"""Is a job that is asked for one that was made before? By its key, or an SDK's count of tries."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.call import Principal
from gateway.errors import InvalidRequest
from gateway.jobs.model import Once

IDEMPOTENT_S = 24 * 3600
RETRIED_S = 900
MOST_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Repeat:
    """How a repeated creation shows: an Idempotency-Key, or an SDK's retry count."""

    key: str | None = None
    retries: int | None = None
    patience_s: float = 600.0

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> "Repeat":
        """Read the headers; raises InvalidRequest."""
        key = headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= MOST_KEY_CHARS:
            raise InvalidRequest(
                f"An Idempotency-Key has 1 to {MOST_KEY_CHARS} characters.",
                param="Idempotency-Key",
            )
        count = headers.get("x-stainless-retry-count", "")
        timeout = headers.get("x-stainless-read-timeout", "")
        return cls(
            key,
            int(count) if count.isdecimal() else None,
            float(timeout) if timeout.isdecimal() else 600.0,
        )


FIRST_TRY = Repeat()


def marks_of(
    repeat: Repeat, principal: Principal, what: str, asked: Any
) -> tuple[Once | None, Once | None]:
    """Give the keys by which a creation is known again: the caller's own, and that of a retry.

    The SDKs send no key, but repeat a POST whose answer was lost and say so. A retry stands for
    the same key's last creation of the same content; a first try always makes something new.
    """
    digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    own = retried = None
    place_ = f"sluice:jobs:once:{what}:{principal.tenant}:{principal.key_id}"
    if repeat.key is not None:
        name = hashlib.sha256(repeat.key.encode()).hexdigest()
        own = Once(f"{place_}:key:{name}", digest, IDEMPOTENT_S)
    if repeat.retries is not None:
        ttl_s = int(min(repeat.patience_s, 3600.0)) + RETRIED_S
        retried = Once(f"{place_}:body:{digest}", digest, ttl_s, ask=repeat.retries > 0)
    return own, retried
