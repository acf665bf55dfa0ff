"""Who is told when a job has ended, and how do they know that it was us?

Ends stand in the stream `sluice:jobs:ended`; the group `webhooks` reads it. An event is signed as
Standard Webhooks and posted until somebody answers 2xx, with growing pauses; it may come more than
once, and then has the same `webhook-id`.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from backends.clock import Clock
from gateway.fetch import check_url, public_session
from gateway.jobs.model import JOBS, Job, JobKind
from gateway.jobs.store import JobStore
from gateway.replies import answer
from gateway.settings_jobs import WebhookEndpoint, WebhookSettings
from gateway.wire.batches import shown as shown_batch

ENDED = f"{JOBS}ended"
DUE = f"{JOBS}webhooks"
GROUP = "webhooks"
READ_AT_ONCE = 50
IDLE_S = 0.5
STALE_MS = 30_000
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 3600.0
TIMEOUT_S = 15.0
KEPT_S = 3 * 86_400

# Moves a delivery into the future if it is still due: two who read the same list do not both send.
_TAKE = """
local due = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not due or tonumber(due) > tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""

_log = structlog.get_logger("webhooks")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, for one endpoint."""

    id: str
    type: str
    body: bytes


def event_of(job: Job) -> Event:
    """Give the event of a job's end; batch events are OpenAI's, video events are ours."""
    if job.kind is JobKind.BATCH:
        state = shown_batch(job)["status"]
        kind = f"batch.{state}"
    else:
        kind = f"video.{job.status}"
    name = f"evt_{hashlib.sha256(f'{job.id}:{kind}:{job.ended_at}'.encode()).hexdigest()[:32]}"
    body = {
        "id": name,
        "object": "event",
        "created_at": int(job.ended_at or 0),
        "type": kind,
        "data": {"id": job.id},
    }
    return Event(name, kind, orjson.dumps(body))


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """Sign as Standard Webhooks: `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = secret.encode()
    message = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


class Webhooks:
    """Delivers events; several processes may."""

    def __init__(
        self, redis: Redis, jobs: JobStore, settings: WebhookSettings, clock: Clock, name: str
    ) -> None:
        self._redis = redis
        self._jobs = jobs
        self._settings = settings
        self._clock = clock
        self._name = name

    async def run(self) -> None:
        """Deliver for ever; does nothing where nobody is to be told."""
        if not self._settings.endpoints:
            return
        allow = self._settings.allow_private
        async with public_session(allow_private=allow, timeout_s=TIMEOUT_S) as session:
            while True:
                try:
                    await self._read()
                    sent = await self._send_due(session)
                except (RedisError, OSError) as error:
                    _log.debug("webhooks_wait", error=str(error)[:200])
                    sent = 0
                if not sent:
                    await self._clock.sleep(IDLE_S)

    async def _read(self) -> None:
        """Turn ends into deliveries that are due; an end is acknowledged when they are kept."""
        try:
            await answer(self._redis.xgroup_create(ENDED, GROUP, id="0", mkstream=True))
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        stale = await answer(
            self._redis.xautoclaim(
                ENDED, GROUP, self._name, min_idle_time=STALE_MS, count=READ_AT_ONCE
            )
        )
        entries = list(stale[1])
        found = await answer(
            self._redis.xreadgroup(GROUP, self._name, {ENDED: ">"}, count=READ_AT_ONCE)
        )
        for _, fresh in found or ():
            entries += fresh
        for entry, fields in entries:
            if fields:
                await self._keep(fields[b"job"].decode())
            await answer(self._redis.xack(ENDED, GROUP, entry))

    async def _keep(self, job_id: str) -> None:
        job = await self._jobs.find(job_id)
        if job is None:
            return
        event = event_of(job)
        async with self._redis.pipeline(transaction=True) as batch:
            for number, endpoint in enumerate(self._settings.endpoints):
                if not _wants(endpoint, job, event):
                    continue
                name = f"{event.id}:{number}"
                fields: dict[str, bytes | str] = {
                    "body": event.body,
                    "url": endpoint.url,
                    "id": event.id,
                }
                batch.hset(f"sluice:webhook:{name}", mapping=cast(dict[Any, Any], fields))
                batch.expire(f"sluice:webhook:{name}", KEPT_S)
                batch.zadd(DUE, {name: self._clock.now()}, nx=True)
            await batch.execute()

    async def _send_due(self, session: aiohttp.ClientSession) -> int:
        """Send what is due; who takes one moves it into the future first, so that one sends it."""
        now = self._clock.now()
        names = await answer(self._redis.zrangebyscore(DUE, "-inf", now, start=0, num=READ_AT_ONCE))
        taken = [each.decode() for each in names if await self._take(each, now)]
        await asyncio.gather(*(self._send(session, each) for each in taken))
        return len(taken)

    async def _take(self, name: bytes, now: float) -> bool:
        later = now + 2 * TIMEOUT_S
        return bool(await answer(self._redis.eval(_TAKE, 1, DUE, name, now, later)))

    async def _send(self, session: aiohttp.ClientSession, name: str) -> None:
        key = f"sluice:webhook:{name}"
        found: Mapping[bytes, bytes] = await answer(self._redis.hgetall(key))
        url = found.get(b"url", b"").decode()
        number = int(name.rpartition(":")[2])
        all_ = self._settings.endpoints
        likely = (*all_[number : number + 1], *all_)  # they may have been exchanged meanwhile
        endpoint = next((each for each in likely if each.url == url), None)
        if b"body" not in found or endpoint is None:  # nobody there is to be told any more
            await answer(self._redis.zrem(DUE, name))
            return
        why = await self._post(session, endpoint, found[b"id"].decode(), found[b"body"])
        if why is None:
            await answer(self._redis.zrem(DUE, name))
            await answer(self._redis.delete(key))
            return
        tries = int(await answer(self._redis.hincrby(key, "tries", 1)))
        if tries >= self._settings.attempts:
            _log.warning("webhook_given_up", webhook=name, tries=tries, error=why)
            await answer(self._redis.zrem(DUE, name))
            return
        pause_s = min(FIRST_PAUSE_S * 4 ** (tries - 1), LONGEST_PAUSE_S)
        await answer(self._redis.zadd(DUE, {name: self._clock.now() + pause_s}, xx=True))

    async def _post(
        self, session: aiohttp.ClientSession, endpoint: WebhookEndpoint, event_id: str, body: bytes
    ) -> str | None:
        """Post once; None when it was taken, else why not."""
        at = int(self._clock.now())
        secret = "" if endpoint.secret is None else endpoint.secret.get_secret_value()
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(secret, event_id, at, body),
        }
        try:
            check_url(endpoint.url, allow_private=self._settings.allow_private)
            async with session.post(
                endpoint.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return None if 200 <= answer.status < 300 else f"status {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return (str(error) or type(error).__name__)[:200]


def _wants(endpoint: WebhookEndpoint, job: Job, event: Event) -> bool:
    if endpoint.tenant is not None and endpoint.tenant != job.tenant:
        return False
    return not endpoint.events or event.type in endpoint.events
