"""The ledger that all gateways share, in Redis or Valkey.

A desk per model speaks with the store (`desk.py`, `shared.py`, `lua/ledger.lua`); here is what
they have in common: who this gateway is, the ear for slots that other gateways hand over, and the
round that shows that this gateway lives, tidies up after dead ones, and looks for a lost store.
"""

import asyncio
import itertools
import secrets
from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock, SystemClock
from gateway.line import Line
from gateway.queue.desk import Desk
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.operations import BEGUN, GRANTS, Batches, read_begun
from gateway.queue.order import STARVATION_S
from gateway.queue.shared import SPARE_S
from gateway.scripts import Script

ANSWER_S = 1.0  # a store that takes longer is away
ROUND_S = 1.0
RETRY_S = 0.5


class RedisLedger:
    """Slots and waiting calls in the store. `run` must run beside it; `aclose` ends its part.

    A slot that another gateway frees comes within a few round trips, within `ROUND_S` where a
    message is lost. What a dead gateway held comes free within about `peers.EXPIRY_S` + `ROUND_S`.
    A slot that no call here takes over is given back after `spare_s`, at once where somebody waits.
    `tells_spare` False: what others read of our bounds has no `spare`, which gateways of the
    store's schema 1 do not know.
    """

    def __init__(
        self,
        redis: Redis,
        clock: Clock | None = None,
        *,
        starvation_s: float = STARVATION_S,
        tells_spare: bool = True,
        spare_s: float = SPARE_S,
    ) -> None:
        self.gateway = secrets.token_hex(4)
        self._redis = redis
        self._line = Line(redis, answer_s=ANSWER_S)
        self._clock = clock or SystemClock()
        self._starvation_s = starvation_s
        self._tells_spare = tells_spare
        self._spare_s = spare_s
        self._script = Script("gateway.queue", "ledger.lua")
        self._desks: dict[str, Desk] = {}
        self._desk_of: dict[str, Desk] = {}
        self._numbers = itertools.count(1)

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Take a slot on the first candidate with room, else wait."""
        desk = self._desk(ask.model)
        desk_of = self._desk_of
        for candidate in ask.candidates:
            if desk_of.get(candidate.replica_id) is not desk:
                desk_of[candidate.replica_id] = desk
        return await desk.acquire(ask, within_s)

    def first_token(self, slot: Slot) -> None:
        """Note that a call's first token is there."""
        self._desk(slot.model).first_token(slot)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        self._desk(slot.model).release(slot)

    def offer(
        self, model: str, candidates: tuple[Candidate, ...], *, rank: int | None = None
    ) -> None:
        """Tell which replicas of a model may be used now."""
        desk = self._desk(model)
        for candidate in candidates:
            self._desk_of[candidate.replica_id] = desk
        desk.offer(candidates, rank)

    def running(self, replica_id: str) -> int:
        """How many sequences run on a replica."""
        return self.outstanding(replica_id).sequences

    def outstanding(self, replica_id: str) -> Cost:
        """What the calls on a replica hold of it."""
        desk = self._desk_of.get(replica_id)
        return Cost(0) if desk is None else desk.outstanding(replica_id)

    def waiting(self, model: str) -> int:
        """How many calls wait for a model."""
        return sum(each.calls for each in self.backlog(model).values())

    def backlog(self, model: str) -> Mapping[int, Backlog]:
        """Who waits for a model, by rank."""
        return self._desk(model).backlog()

    def drain_per_s(self, model: str) -> float:
        """Slots of a model that came free per second in the last ten seconds."""
        return self._desk(model).drain.per_s(self._clock.now())[0]

    def work_per_s(self, model: str) -> float:
        """Token work of a model that ended per second in the last ten seconds."""
        return self._desk(model).drain.per_s(self._clock.now())[1]

    def slots(self, model: str) -> tuple[Slot, ...]:
        """Give the slots of a model that this gateway holds."""
        return self._desk(model).slots

    @property
    def held(self) -> int:
        """How many slots this gateway holds."""
        return sum(len(desk.slots) for desk in self._desks.values())

    @property
    def gateways(self) -> int:
        """How many gateways live, this one included, as far as is known."""
        return max((desk.peers.count for desk in self._desks.values()), default=1)

    @property
    def away(self) -> bool:
        """Whether the store does not answer, so that this gateway goes by its own book."""
        return any(desk.away for desk in self._desks.values())

    @property
    def untold(self) -> bool:
        """Whether something was done here that the store has not heard of."""
        return any(desk.untold for desk in self._desks.values())

    async def run(self) -> None:
        """Listen, tidy up and look for the store, for ever; cancel to end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="ledger's ear")
            tasks.create_task(self._rounds(), name="ledger's round")

    async def aclose(self) -> None:
        """Give everything back; calls that wait are cancelled."""
        for desk in self._desks.values():
            await desk.quit()
        self._line.close()

    def _desk(self, model: str) -> Desk:
        desk = self._desks.get(model)
        if desk is None:
            desk = self._desks[model] = Desk(
                model,
                Batches(self._line, self._script, self.gateway, model),
                now=self._clock.now,
                lease_ids=lambda: f"{self.gateway}:{next(self._numbers)}",
                gateway=self.gateway,
                starvation_s=self._starvation_s,
                tells_spare=self._tells_spare,
                spare_s=self._spare_s,
            )
        return desk

    async def _rounds(self) -> None:
        sweep_at = 0.0
        while True:
            if self.away and await self._answers():
                for desk in self._desks.values():
                    desk.come_back()
            if self._clock.monotonic() >= sweep_at:
                sweep_at = self._clock.monotonic() + ROUND_S
                for desk in self._desks.values():
                    desk.sweep()
            await self._clock.sleep(RETRY_S)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as ear:
                    own = f"{GRANTS}{self.gateway}"
                    await ear.subscribe(own, BEGUN)
                    async for message in ear.listen():
                        if message["type"] != "message":
                            continue
                        if message["channel"].decode() == own:
                            self._deliver(message["data"])
                        else:
                            self._hear(message["data"])
            except (RedisError, OSError):
                await self._clock.sleep(RETRY_S)  # meanwhile the rounds bring what is handed over

    def _deliver(self, data: bytes) -> None:
        words = data.decode().split("\n")
        for lease_id, replica_id in zip(words[::2], words[1::2], strict=True):
            desk = self._desk_of.get(replica_id)
            if desk is not None:
                desk.deliver(lease_id, replica_id)

    def _hear(self, data: bytes) -> None:
        gateway, model, backlog = read_begun(data)
        desk = self._desks.get(model)
        if desk is not None and gateway != self.gateway:
            desk.hear(backlog)
