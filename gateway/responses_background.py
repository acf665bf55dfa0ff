"""Who works on a response that nobody waits for, and how does it come to an end?

A background response is a call like any other, served by the same pipeline into a sink that no
caller hears. Its one end is written by whoever is first: the answer, a cancellation at any
gateway, or, after this process has died, the next who looks and finds it not alive.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import structlog
from msgspec.structs import replace

from backends.clock import Clock
from gateway.call import Call
from gateway.errors import GatewayError, StreamBroken
from gateway.responses_record import Stored, away
from gateway.responses_store import ResponsesStore, TooLarge
from gateway.sink import Flow, Header, Sink
from gateway.wire.responses.document import TERMINAL, Document, failed
from gateway.wire.sse import split

BEAT_S = 1.0
DEAD_AFTER_S = 90.0
LONGEST_PAUSE_S = 30.0
KEEP_TRYING_S = 600.0
LAST_WORDS_S = 5.0

Serve = Callable[[Call, Sink], Awaitable[object]]

_log = structlog.get_logger("responses")


@dataclass(slots=True)
class _Run:
    call: Call
    document: Document
    sink: "Recorder"
    task: "asyncio.Task[None] | None" = None


class ResponseRuns:
    """The responses of one process: their store, and those that run in the background.

    `watch` must run as long as they do. On leaving, what still runs fails, and says why.
    """

    def __init__(self, store: ResponsesStore, serve: Serve, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self._serve = serve
        self._runs: dict[tuple[str, str], _Run] = {}
        self._closing = False

    async def __aenter__(self) -> "ResponseRuns":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._closing = True
        tasks = {run.task for run in self._runs.values() if run.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)

    @property
    def running(self) -> int:
        """How many responses are being worked on in this process."""
        return len(self._runs)

    def start(self, call: Call, document: Document, *, records: bool) -> None:
        """Begin with a response that the store has as queued; `records`: keep its events."""
        key = (call.principal.tenant, str(document["id"]))
        run = _Run(call, document, Recorder(self.store, self.clock, *key, keeps=records))
        self._runs[key] = run
        run.task = asyncio.create_task(self._work(run, key), name=f"background {key[1]}")
        run.task.add_done_callback(lambda _: self._runs.pop(key, None))

    def cancel(self, tenant: str, response_id: str) -> None:
        """Stop a response if it runs here; elsewhere its gateway sees it within a beat."""
        run = self._runs.get((tenant, response_id))
        if run is not None and run.task is not None:
            run.task.cancel()

    async def watch(self) -> None:
        """Tell the store that the runs here are alive, and stop those that were cancelled."""
        while True:
            await self.clock.sleep(BEAT_S)
            keys = [*self._runs]
            if not keys:
                continue
            try:
                statuses = await self.store.beat(keys, now=self.clock.now())
            except GatewayError:
                continue  # the store is away: what runs may go on
            for key, status in zip(keys, statuses, strict=True):
                if status is None or status == "cancelled":
                    self.cancel(*key)

    async def end(self, tenant: str, document: Document) -> str | None:
        """Write a response's end, however long the store is away; gives the status that holds."""
        until = self.clock.monotonic() + KEEP_TRYING_S
        while True:
            try:
                return await self.store.advance(tenant, document)
            except TooLarge:
                document = failed(document, [], GatewayError("The answer is too large to be kept."))
            except GatewayError:
                if self.clock.monotonic() > until:
                    _log.error("response_lost", response_id=document["id"], tenant=tenant)
                    raise
                await self.clock.sleep(1.0)

    async def _work(self, run: _Run, key: tuple[str, str]) -> None:
        try:
            if await self.end(key[0], {**run.document, "status": "in_progress"}) == "in_progress":
                await self._serve_when_there_is_room(run)
        except asyncio.CancelledError:
            if self._closing:
                shut = GatewayError("The server shut down before the answer was complete.")
                await self._fail(run, key, shut)
            raise
        except GatewayError as error:
            await self._fail(run, key, error)
        except Exception as bug:
            _log.error("background_failed", response_id=key[1], exc_info=bug)
            await self._fail(run, key, GatewayError("The server had an error."))
        finally:
            await run.sink.close()

    async def _serve_when_there_is_room(self, run: _Run) -> None:
        while True:
            try:
                # The ledger knows each try by a key of its own.
                await self._serve(replace(run.call, key=uuid.uuid4().hex), run.sink)
                return
            except GatewayError as error:
                pause_s = min(error.retry_after_s or LONGEST_PAUSE_S, LONGEST_PAUSE_S)
                late = self.clock.monotonic() + pause_s > run.call.deadline
                if late or run.sink.started or error.status not in (429, 503):
                    raise
            await self.clock.sleep(pause_s)

    async def _fail(self, run: _Run, key: tuple[str, str], error: GatewayError) -> None:
        status = await self.end(key[0], failed(run.document, [], error))
        # A stream that broke has told its end itself.
        if status == "failed" and not isinstance(error, StreamBroken):
            run.sink.write(run.call.dialect.editor().failure(error))


class Recorder:
    """A sink without a caller: the events are kept for who asks later, or let go."""

    def __init__(
        self, store: ResponsesStore, clock: Clock, tenant: str, response_id: str, *, keeps: bool
    ) -> None:
        self.started = False
        self._store = store
        self._clock = clock
        self._place = (tenant, response_id)
        self._keeps = keeps
        self._frames: list[bytes] = []
        self._number = OPENING_EVENTS
        self._pump: asyncio.Task[None] | None = None

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Nobody reads status and headers."""
        self.started = True

    def feed_from(self, flow: Flow | None) -> None:
        """Nobody reads slowly."""

    def write(self, data: bytes) -> None:
        """Queue whole frames."""
        if not self._keeps:
            return
        self._frames.extend(split(data))
        if self._frames and (self._pump is None or self._pump.done()):
            self._pump = asyncio.create_task(self._drain())

    async def finish(self, data: bytes = b"") -> None:
        """Queue the last frames; `close` waits for them."""
        self.write(data)

    async def close(self) -> None:
        """Wait until all events are kept."""
        if self._pump is not None:
            await self._pump

    async def _drain(self) -> None:
        tries = 0
        while self._frames:
            frames = self._frames[:500]
            try:
                await self._store.add_events(*self._place, self._number, frames)
            except GatewayError:
                tries += 1
                if tries > 60:
                    _log.warning("events_lost", response_id=self._place[1])
                    return
                await self._clock.sleep(1.0)
                continue
            tries = 0
            self._number += len(frames)
            del self._frames[: len(frames)]


# `response.created` and `response.queued` are kept before the work begins.
OPENING_EVENTS = 2


async def settled(
    store: ResponsesStore, tenant: str, response_id: str, *, now: float
) -> Stored | None:
    """Give a stored response; one whose gateway has died is failed first."""
    found = await store.find(tenant, response_id)
    if found is None or found.has_ended or found.alive_at is None:
        return found
    if now - found.alive_at <= DEAD_AFTER_S:
        return found
    dead = GatewayError("The server that worked on this response has ended.")
    try:
        status = await store.advance(tenant, failed(found.document, [], dead))
    except TooLarge:
        raise away() from None
    return None if status not in TERMINAL else await store.find(tenant, response_id)
