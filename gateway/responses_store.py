"""Which responses are kept, for whom, and what does a conversation consist of?

Every write may be repeated. How a response lies there is in `responses_record.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import ContextLengthExceeded, InvalidRequest
from gateway.replies import answer, text
from gateway.responses_record import (
    FIELDS,
    ID,
    ITEM_ID,
    History,
    Stored,
    asking,
    events_key,
    fields_of,
    item_key,
    key_of,
    stored_of,
)
from gateway.wire.responses.document import Document
from gateway.wire.responses.items import Item

LONGEST_CHAIN = 2_000
EVENTS_TTL_S = 3_600

# Moves a response on, unless it has ended or is gone; answers the status that holds then.
_ADVANCE = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'in_progress' then return status end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'document', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ARGV[1]
"""

# Says that the gateway which runs a response is alive; answers the status.
_BEAT = """
local status = redis.call('HGET', KEYS[1], 'status')
if status == 'queued' or status == 'in_progress' then
  redis.call('HSET', KEYS[1], 'alive_at', ARGV[1])
end
return status
"""


class TooLarge(Exception):
    """The response is larger than what may be kept."""


class ResponsesStore:
    """Responses in Redis; methods raise `Unavailable` while it is away.

    `ttl_s`: a response is kept so long after it was last written or built upon; `max_bytes`: the
    largest document and input together.
    """

    def __init__(self, redis: Redis, *, ttl_s: float, max_bytes: int) -> None:
        self._redis = redis
        self._ttl_s = max(int(ttl_s), 1)
        self._max_bytes = max_bytes
        self._advance = redis.register_script(_ADVANCE)
        self._beat = redis.register_script(_BEAT)

    async def keep(self, tenant: str, stored: Stored) -> None:
        """Write a response whole. Raises TooLarge."""
        fields = fields_of(stored)
        if len(fields["document"]) + len(fields["input"]) > self._max_bytes:
            raise TooLarge
        key = key_of(tenant, stored.id)
        async with asking(), self._redis.pipeline(transaction=True) as batch:
            batch.hset(key, mapping=cast(dict[Any, Any], fields))
            batch.expire(key, self._ttl_s)
            for item in (*stored.input, *stored.document["output"]):
                if ITEM_ID.fullmatch(item["id"]):
                    batch.set(item_key(tenant, item["id"]), stored.id, ex=self._ttl_s)
            await batch.execute()

    async def advance(self, tenant: str, document: Document) -> str | None:
        """Replace the document of a response that has not ended.

        Gives the status that holds afterwards: the document's own if it was taken, another one if
        the response had ended before, None if it is gone. Raises TooLarge.
        """
        body = orjson.dumps(document)
        if len(body) > self._max_bytes:
            raise TooLarge
        key = key_of(tenant, document["id"])
        async with asking():
            status = await self._advance([key], [document["status"], body, self._ttl_s])
            if document["output"] and status is not None:
                async with self._redis.pipeline(transaction=False) as batch:
                    for item in document["output"]:
                        batch.set(item_key(tenant, item["id"]), document["id"], ex=self._ttl_s)
                    await batch.execute()
        return None if status is None else text(status)

    async def beat(self, running: Iterable[tuple[str, str]], *, now: float) -> list[str | None]:
        """Say that responses, as (tenant, id), are being worked on; give their statuses."""
        async with asking(), self._redis.pipeline(transaction=False) as batch:
            for tenant, response_id in running:
                await self._beat([key_of(tenant, response_id)], [repr(now)], client=batch)
            found = await batch.execute()
        return [None if each is None else text(each) for each in found]

    async def find(self, tenant: str, response_id: str) -> Stored | None:
        """Give a response; None where this tenant has none of that id."""
        if not ID.fullmatch(response_id):
            return None
        async with asking():
            return stored_of(await answer(self._redis.hmget(key_of(tenant, response_id), *FIELDS)))

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a response; gives whether there was one. Later ones in its chain break."""
        found = await self.find(tenant, response_id)
        if found is None:
            return False
        items = (*found.input, *found.document["output"])
        async with asking():
            await self._redis.delete(
                key_of(tenant, response_id),
                events_key(tenant, response_id),
                *(item_key(tenant, item["id"]) for item in items),
            )
        return True

    async def history(self, tenant: str, response_id: str) -> History:
        """Give the conversation that ends with a response, and keep all of it for longer.

        Raises InvalidRequest where it, or one before it, is not there or has not ended.
        """
        last = await self.find(tenant, response_id)
        if last is None:
            raise _no_previous(response_id)
        if not last.has_ended:
            raise InvalidRequest(
                f"Previous response with id '{response_id}' has not ended yet.",
                param="previous_response_id",
                code="previous_response_not_ended",
            )
        if len(last.chain) >= LONGEST_CHAIN:
            raise ContextLengthExceeded(
                f"A conversation has at most {LONGEST_CHAIN} responses.",
                param="previous_response_id",
            )
        turns = [*await self._ancestors(tenant, last), last]
        items = [item for turn in turns for item in (*turn.input, *turn.document["output"])]
        return History(tuple(items), (*last.chain, last.id))

    async def _ancestors(self, tenant: str, last: Stored) -> list[Stored]:
        async with asking(), self._redis.pipeline(transaction=False) as batch:
            for each in (*last.chain, last.id):
                batch.expire(key_of(tenant, each), self._ttl_s)
            for each in last.chain:
                batch.hmget(key_of(tenant, each), *FIELDS)
            found = await batch.execute()
        turns = []
        for each, fields in zip(last.chain, found[len(last.chain) + 1 :], strict=True):
            turn = stored_of(fields)
            if turn is None:
                raise _no_previous(each)
            turns.append(turn)
        return turns

    async def find_items(self, tenant: str, item_ids: list[str]) -> Mapping[str, Item]:
        """Give the items that are stored under these ids; what is not there is left out."""
        wanted = [each for each in dict.fromkeys(item_ids) if ITEM_ID.fullmatch(each)]
        if not wanted:
            return {}
        async with asking():
            owners = await answer(self._redis.mget([item_key(tenant, each) for each in wanted]))
        ids = dict.fromkeys(text(owner) for owner in owners if owner is not None)
        holders = [await self.find(tenant, each) for each in ids]
        return {
            item["id"]: item
            for holder in holders
            if holder is not None
            for item in (*holder.input, *holder.document["output"])
            if item["id"] in wanted
        }

    async def add_events(
        self, tenant: str, response_id: str, first: int, frames: list[bytes]
    ) -> None:
        """Append events, the first of which has the sequence number `first`."""
        key = events_key(tenant, response_id)
        async with asking(), self._redis.pipeline(transaction=False) as batch:
            for number, frame in enumerate(frames, first):
                batch.xadd(key, {b"frame": frame}, id=f"{number}-1")
            batch.expire(key, EVENTS_TTL_S)
            for reply in await batch.execute(raise_on_error=False):
                # Refused as "equal or smaller": the first try had arrived before it broke.
                if isinstance(reply, RedisError) and "equal or smaller" not in str(reply):
                    raise reply

    async def events(self, tenant: str, response_id: str, after: int) -> list[bytes] | None:
        """Give the events whose sequence number is above `after`; None where none are kept."""
        key = events_key(tenant, response_id)
        async with asking(), self._redis.pipeline(transaction=False) as batch:
            batch.exists(key)
            batch.xrange(key, min=f"({after}-1" if after >= 0 else "-", count=1_000)
            known, found = await batch.execute()
        return [fields[b"frame"] for _, fields in found] if known else None


def _no_previous(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{response_id[:100]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
