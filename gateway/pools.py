"""What is each pool like now? Fleet, ledger and what was learnt, made into prospects.

Looked at twice a second and whenever the fleet changes; decisions in between read the result.
"""

from collections.abc import Callable, Mapping
from math import ceil, inf

from backends.capacity import Mix, work_s
from backends.fleet import Load, Pool, Standing
from backends.measured import BUILT_IN, Profiles
from backends.slo import Class
from gateway.law import LiveLaw, Speed
from gateway.levels import levels, too_far
from gateway.pool_state import Foreign, PoolState
from gateway.queue.ledger import Candidate, Cost
from gateway.routing.prospects import (
    KV_FILL,
    Prospect,
    Roster,
    busy_s,
    decode_busy_s,
    prefill_bound,
    slots,
)

UNSTATED_LIMIT = 256  # calls at once where neither settings nor engine say
LAW_SHARE = 0.8  # of what the law says that a pool does, where less was measured
FOREIGN_AT_LEAST = 3  # calls beyond the ledger's, below which the reports are just late
SPARED = 1.0 / 3.0  # of a replica kept for a class, which looser ones leave free for its bursts


def limit_of(standing: Standing) -> int:
    """Say how many calls an engine takes at once: configured, else reported, else a guess."""
    if standing.replica.max_running:
        return standing.replica.max_running
    if standing.load is not None and standing.load.max_running:
        return standing.load.max_running
    return UNSTATED_LIMIT


class Pools:
    """The state of every model's pool.

    `promises` False leaves each replica open up to its engine's own limit, for policies that know
    no promises.
    """

    def __init__(
        self,
        classes: Mapping[str, Class],
        outstanding: Callable[[str], Cost],
        rtt_s: Mapping[str, float],
        *,
        promises: bool = True,
        profiles: Profiles = BUILT_IN,
    ) -> None:
        self._classes = classes
        self._outstanding = outstanding
        self._rtt_s = rtt_s
        self._promises = promises
        self.law = LiveLaw(profiles)
        self._states: dict[str, PoolState] = {}

    def states(self) -> Mapping[str, PoolState]:
        """Give the states of all pools by model."""
        return self._states

    def state(self, model: str) -> PoolState:
        """Give the state of a model's pool."""
        found = self._states.get(model)
        if found is None:
            found = self._states[model] = PoolState.of(model)
        return found

    def guests(self, model: str, replica_id: str, rank: int) -> int | None:
        """Say how many calls of a class may be on a replica that is kept for a tighter one.

        None where it is not.
        """
        found = self._states.get(model)
        level = None if found is None else found.kept_for.get(replica_id)
        prospect = None if found is None else found.roster.by_id.get(replica_id)
        if level is None or prospect is None or self._classes[level.name].rank >= rank:
            return None
        bounds = [prospect.bounds[n] for n, each in self._classes.items() if each.rank == rank]
        return min((max(each.sequences - each.spare, 0) for each in bounds), default=None)

    def look(self, pool: Pool, mix: Mix | None, *, now: float) -> PoolState:
        """Learn from the pool's newest reports and make its prospects; `now` in Unix seconds."""
        state = self.state(pool.model)
        state.mix = mix or state.mix
        for standing in pool.standings:
            if standing.load is not None:
                self._report(state, standing, standing.load)
        ids = {s.replica.id for s in pool.standings}
        state.outliers.keep_only(ids)
        for gone in [key for key in state.paces if key[0] not in ids]:
            del state.paces[gone]
        speeds = {s.replica.id: self.law.speed(s.replica) for s in pool.routable}
        self._keep(state, pool, speeds, now)
        state.roster = Roster.of(
            tuple(self._prospect(state, s, speeds[s.replica.id]) for s in pool.routable)
        )
        state.does_per_s = {
            name: sum(self._does_per_s(state, speed, name) for speed in speeds.values())
            for name in self._classes
        }
        return state

    def keep_only(self, ids: set[str]) -> None:
        """Forget the laws of replicas that are gone."""
        self.law.keep_only(ids)

    def _report(self, state: PoolState, standing: Standing, load: Load) -> None:
        replica_id = standing.replica.id
        if state.loads.get(replica_id) is load:
            return
        state.loads[replica_id] = load
        self.law.report(standing.replica, load)
        state.prefixes.progress(replica_id, load.prefill_uncached_tokens, load.max_total_tokens)
        foreign = state.foreign.setdefault(replica_id, Foreign())
        ours = self._outstanding(replica_id).sequences
        beyond = load.running + load.waiting - ours
        beyond = beyond if beyond >= max(FOREIGN_AT_LEAST, ours // 4) else 0
        foreign.both, foreign.last = min(foreign.last, beyond), beyond

    def _does_per_s(self, state: PoolState, speed: Speed, class_name: str) -> float:
        """Give the reference work that a replica does in a second within a class's TPOT."""
        tpot_s = self._classes[class_name].targets(state.model).tpot_s
        return work_s(state.reference, state.mix) / busy_s(speed.law, state.mix, tpot_s)

    def _keep(self, state: PoolState, pool: Pool, speeds: Mapping[str, Speed], now: float) -> None:
        """Say for which class each replica is kept."""
        called = {n for n, d in state.demand.items() if d.is_alive(now)} | state.others.keys()
        alive = [n for n in called if n in self._classes]
        alive.sort(key=lambda n: self._classes[n].targets(state.model).tpot_s or inf)
        ids = sorted(speeds, key=lambda r: (self._outstanding(r).sequences, r))
        if not ids:
            state.kept_for = {}
            return
        if state.agreed is not None:  # by a process whose file may name other classes
            state.kept_for = {
                id_: level
                for id_, level in state.agreed.items()
                if id_ in speeds and level.name in self._classes
            }
            return
        ways = {s.replica.id: self._rtt_s.get(s.replica.site, 0.0) for s in pool.routable}
        far = too_far(ways, {n: self._classes[n].targets(state.model) for n in alive})
        each = {}
        for n in alive:
            near = [s for id_, s in speeds.items() if id_ not in far.get(n, ())]
            each[n] = sum(self._does_per_s(state, s, n) for s in near) / len(near)
        demand = {n: state.asked_per_s(n, now) for n in alive}
        generous = bool(alive) and self._classes[alive[-1]].targets(state.model).tpot_s is None
        state.kept_for = levels(
            alive, demand, each, ids, state.kept_for, generous=generous, far=far
        )

    def _prospect(self, state: PoolState, standing: Standing, speed: Speed) -> Prospect:
        replica, load = standing.replica, standing.load
        foreign = state.foreign.get(replica.id, Foreign()).both
        level = state.kept_for.get(replica.id)
        tpot_s = None if level is None else self._classes[level.name].targets(state.model).tpot_s
        return Prospect(
            replica=replica,
            speed=speed,
            rtt_s=self._rtt_s.get(replica.site, 0.0),
            call_s=decode_busy_s(speed.law, state.mix, tpot_s),
            bounds=self._bounds(state, standing, speed, foreign),
            foreign_running=foreign,
            foreign_prefill_tokens=load.waiting_uncached_tokens if load and foreign else 0,
            load_at=None if load is None else load.seen_at,
        )

    def _bounds(
        self, state: PoolState, standing: Standing, speed: Speed, foreign: int
    ) -> Mapping[str, Candidate]:
        replica_id, most = standing.replica.id, limit_of(standing)
        if not self._promises:
            return {name: Candidate(replica_id, most) for name in self._classes}
        load = standing.load
        kv = int(KV_FILL * load.max_total_tokens) if load and load.max_total_tokens else None
        reuse = state.prefixes.reuse
        own: dict[str, Candidate] = {}
        for name, each in self._classes.items():
            targets = each.targets(state.model)
            pace = state.paces.get((replica_id, name))
            count = slots(
                speed, state.mix, targets,
                most_running=most, pace=1.0 if pace is None else pace.factor,
            )  # fmt: skip
            room = max(count - foreign, 1)
            own[name] = Candidate(replica_id, room, kv, prefill_bound(speed, targets, reuse=reuse))
        level = state.kept_for.get(replica_id)
        if level is None:
            return own
        kept, rank = own[level.name], self._classes[level.name].rank
        return {
            name: within(
                each,
                kept,
                looser=self._classes[name].rank > rank,
                alone=level.alone,
                promises=self._classes[name].targets(state.model).tpot_s is not None,
            )
            for name, each in own.items()
        }


def within(
    own: Candidate, kept: Candidate, *, looser: bool, alone: bool, promises: bool
) -> Candidate:
    """Give a class's bounds on a replica that is kept for another one.

    A looser class spares a third for that one's bursts where that one needs all of the replica; on
    others only if it promises no time per token itself, and down to one sequence.
    """
    prefill = min(own.prefill_tokens or 0, kept.prefill_tokens or 0)
    sequences = min(own.sequences, kept.sequences)
    spare = ceil(SPARED * sequences) if looser and (alone or not promises) else 0
    if not alone:
        spare = max(min(spare, sequences - 1), 0)
    return Candidate(own.replica_id, sequences, own.kv_tokens, prefill or None, spare)
