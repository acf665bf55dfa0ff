"""How does a response lie in the store, and what is said when the store is away?

In Redis a response is the hash `sluice:response:<tenant>:<id>` of its document, its own input
items, the ids of the responses before it, its status and, while it runs in the background, when
its gateway was last seen alive. `sluice:response-item:<tenant>:<item id>` names the response that
holds an item, and the stream `sluice:response-events:<tenant>:<id>` has the events of a background
response that is streamed. All of it expires. The tenant is part of every key, so another tenant's
id is simply not there.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from redis.exceptions import RedisError

from gateway.errors import GatewayError, Unavailable
from gateway.wire.responses.document import TERMINAL, Document
from gateway.wire.responses.items import Item

ASK_TIMEOUT_S = 2.0
FIELDS = ("document", "input", "chain", "alive_at")  # what `stored_of` reads, in this order

ID = re.compile(r"resp_[A-Za-z0-9]{1,64}")
ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Stored:
    """A response as it is kept.

    `input` are the items that its own request brought; `chain` the ids of the responses that it
    follows, oldest first. `alive_at` (Unix seconds) is known while it runs in the background.
    """

    document: Document
    input: list[Item]
    chain: tuple[str, ...] = ()
    alive_at: float | None = None

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.document["id"])

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.document["status"] in TERMINAL


@dataclass(frozen=True, slots=True)
class History:
    """What a new response follows: every item so far, and the ids of the responses."""

    items: tuple[Item, ...] = ()
    chain: tuple[str, ...] = ()


def fields_of(stored: Stored) -> dict[str, bytes | str]:
    """Write a response as the fields of its hash."""
    fields: dict[str, bytes | str] = {
        "document": orjson.dumps(stored.document),
        "input": orjson.dumps(stored.input),
        "chain": orjson.dumps(stored.chain),
        "status": stored.document["status"],
    }
    if stored.alive_at is not None:
        fields["alive_at"] = repr(stored.alive_at)
    return fields


def stored_of(fields: list[Any]) -> Stored | None:
    """Read a response from `FIELDS`; None where there is none."""
    document, given, chain, alive_at = fields
    if document is None or given is None:
        return None
    return Stored(
        document=orjson.loads(document),
        input=orjson.loads(given),
        chain=tuple(orjson.loads(chain or b"[]")),
        alive_at=None if alive_at is None else float(alive_at),
    )


def key_of(tenant: str, response_id: str) -> str:
    """Name the hash of a response."""
    return f"sluice:response:{tenant}:{response_id}"


def item_key(tenant: str, item_id: str) -> str:
    """Name what says which response holds an item."""
    return f"sluice:response-item:{tenant}:{item_id}"


def events_key(tenant: str, response_id: str) -> str:
    """Name the stream of a response's events."""
    return f"sluice:response-events:{tenant}:{response_id}"


def away() -> GatewayError:
    """Say that the store cannot be reached."""
    return Unavailable(
        "Stored responses cannot be reached at the moment. Try again.",
        code="response_store_unavailable",
        retry_after_s=5.0,
    )


@contextlib.asynccontextmanager
async def asking() -> AsyncIterator[None]:
    """Bound the wait for the store, and turn its absence into our error."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise away() from error
