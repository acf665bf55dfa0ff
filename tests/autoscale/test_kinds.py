"""A live pool of several kinds of hardware: what its file may say, what it starts, and why."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from autoscale.actuate.dry import DryActuator
from autoscale.actuate.unit import ActuationFailed, Unit, UnitState
from autoscale.config import BadConfig, parse, read
from autoscale.explain import told
from autoscale.journal import Journal
from autoscale.loop import Autoscaler
from backends import autoscaling, signals
from backends.clock import Clock, SystemClock
from backends.registry import Registry
from backends.signals import Counters, Gauges, Signal
from backends.slo import MLPERF_CLASSES

MODEL = "llama2-70b"
OTHER = "gpt-oss-120b"
NEAR, OLD = f"{MODEL}/near", f"{MODEL}/old"
# At server's limits an MI325X does 0.304 of what an MI355X does.
CHEAP: dict[str, Any] = {"name": "old", "hardware": "mi325x", "cost": 0.2, "cold_start_s": 60.0}
# Interactive calls may be served by both here, so that where they stand says nothing.
CLASSES = {each.name: each for each in MLPERF_CLASSES if each.name != "interactive"}


def _values(**changes: Any) -> dict[str, Any]:
    policy = {"preset": "balanced", "most": 8}
    kinds = changes.pop("kinds", [{"name": "near", "cold_start_s": 60.0}, CHEAP])
    pool = {"model": MODEL, "policy": policy, "kinds": kinds, **changes.pop("pool", {})}
    return {"pools": [pool, *changes.pop("others", ())], **changes}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kinds": []}, "pools[0].kinds: must list at least one kind"),
        ({"kinds": "near"}, "must list at least one kind"),
        ({"kinds": [{"hardware": "mi355x"}]}, "pools[0].kinds[0]: `name` is missing"),
        ({"kinds": [{"name": "a/b"}]}, "kinds[0].name: 'a/b'"),
        ({"kinds": [{"name": "a"}, {"name": "a"}]}, "two have the same name"),
        ({"kinds": [{"name": "a", "speed": 1}]}, "kinds[0].speed: unknown"),
        ({"kinds": [{"name": "a", "key": "x"}]}, "kinds[0].key: unknown"),
        ({"kinds": [{"name": "a", "hardware": "abacus"}]}, "abacus"),
        ({"kinds": [{"name": "a", "cost": 0}]}, "kinds[0].cost: must be a number"),
        ({"kinds": [{"name": "a", "most": 1.5}]}, "kinds[0].most: must be a whole number"),
        ({"kinds": [{"name": "a", "most": True}]}, "kinds[0].most: must be a whole number"),
        ({"kinds": [{"name": "a", "rtt_s": "far"}]}, "kinds[0].rtt_s: must be a number"),
        ({"kinds": [{"name": "a", "cold_start_s": 0}]}, "kinds[0].cold_start_s"),
        ({"kinds": [{"name": "a", "actuation": "x"}]}, "kinds[0].actuation: must be a mapping"),
        ({"kinds": [{"name": "a", "rtt_s": 0.1}, {"name": "b"}]}, "the first must be the nearest"),
        ({"pool": {"hardware": "mi355x"}}, "pools[0].hardware: belongs into each of `kinds`"),
        ({"pool": {"actuation": {}}}, "pools[0].actuation: belongs into each of `kinds`"),
        ({"actuator": "docker"}, "pools[0].kinds: with docker each needs its own `actuation`"),
    ],
)
def test_kinds_that_cannot_be_meant_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises((BadConfig, LookupError)) as found:
        parse(_values(**changes))
    assert why in str(found.value)


def test_a_pool_of_several_kinds_shares_its_machines_with_none() -> None:
    values = _values(shared=[{"calls": MODEL, "jobs": "wan"}])
    values["pools"].append({"model": "wan"})
    with pytest.raises(BadConfig, match="shares its machines with none"):
        parse(values)


def test_a_pool_that_lists_no_kinds_is_of_one_and_known_by_its_model(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        "pools: [{model: m, hardware: mi325x, replicas_per_unit: 8, cold_start_s: 60,"
        " actuation: {service: s}}]",
        encoding="utf-8",
    )
    (pool,) = read(file).pools
    (kind,) = pool.every_kind
    assert (kind.key, kind.hardware, kind.replicas_per_unit) == ("m", "mi325x", 8)
    assert (kind.cold_start_s, kind.actuation) == (60, {"service": "s"})


def test_several_kinds_are_known_apart_and_the_slowest_start_is_looked_ahead() -> None:
    slow = {**CHEAP, "cold_start_s": 600.0, "most": 3, "rtt_s": 0.1, "site": "lab"}
    fleet = parse(_values(kinds=[{"name": "near", "replicas_per_unit": 8}, slow]))
    (pool,) = fleet.pools
    assert list(fleet.kinds) == [NEAR, OLD]
    assert (pool.hardware, pool.replicas_per_unit, pool.cold_start_s) == ("mi355x", 8, 600.0)


class Told(SystemClock):
    """Instants as a test tells them."""

    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def now(self) -> float:
        return self.at


class Fleet:
    """An autoscaler with units in memory, and work that is offered to it, ten seconds a tick."""

    def __init__(self, redis: Redis, make: Any = DryActuator, **changes: Any) -> None:
        self.redis = redis
        self.clock = Told()
        self.actuator = make(self.clock)
        classes = changes.pop("classes", CLASSES)
        self.scaler = Autoscaler(
            parse(_values(**changes)),
            classes,
            store=redis,
            registry=Registry(redis),
            actuator=self.actuator,
            clock=self.clock,
        )
        self._work = 0.0

    async def ticks(
        self, count: int, units: float, class_name: str = "server", waiting_s: float = 0.0
    ) -> None:
        """Offer so many units of work, tick after tick, while so much waits."""
        for _ in range(count):
            self.clock.at += 10.0
            self._work += 10.0 * units * 0.9
            counters = Counters(offered=round(self._work * 40), offered_work_s=self._work)
            waits = Gauges(waiting=9, waiting_work_s=waiting_s, oldest_at=self.clock.at - 5.0)
            signal = Signal(
                "g",
                self.clock.at,
                1.0,
                {(model, class_name, "t"): counters for model in (MODEL, OTHER)},
                {(MODEL, class_name): waits} if waiting_s else {},
            )
            await signals.write(self.redis, signal)
            await self.scaler.tick()

    async def count(self) -> tuple[int, int]:
        """How many units there are of each kind."""
        near, old = await self.actuator.units(NEAR), await self.actuator.units(OLD)
        return len(near), len(old)

    async def why(self) -> dict[str, str]:
        """Why each kind is as it is by now."""
        found = (await autoscaling.states(self.redis))[MODEL]
        return {each["name"]: each["why"] for each in found["kinds"]}

    async def told(self) -> str:
        """All decisions, told to a person."""
        found = await Journal(self.redis).last(pool=MODEL, count=100)
        return "\n".join(told(each) for each in found)


async def test_the_cheapest_kind_for_its_worth_starts_and_explain_tells_why(redis: Redis) -> None:
    fleet = Fleet(redis)
    await fleet.ticks(40, 2.0)
    near, old = await fleet.count()
    assert near <= 1  # a fleet of no units needs one whole at first
    assert near + 0.304 * old >= 2.0
    text = await fleet.told()
    assert "units of near's worth" in text
    assert "old (mi325x): start" in text
    assert "a unit is worth 0.30, 0.66 each; the cheapest for its worth of those with" in text
    assert "dearer for its worth" in text


async def test_a_dearer_kind_starts_where_the_cheaper_one_is_full(redis: Redis) -> None:
    fleet = Fleet(redis, kinds=[{"name": "near", "cold_start_s": 60.0}, {**CHEAP, "most": 2}])
    await fleet.ticks(40, 3.0)
    near, old = await fleet.count()
    assert old == 2
    assert near >= 3
    assert (await fleet.why())["old"] == "all 2 are there"


async def test_a_dearer_kind_starts_where_the_budget_of_the_cheaper_ones_hardware_is_spent(
    redis: Redis,
) -> None:
    fleet = Fleet(redis, budget={"mi325x": 3, "mi355x": 1})
    await fleet.ticks(40, 6.0)
    assert await fleet.count() == (1, 3)
    assert (await fleet.why())["old"] == "the budget of mi325x is spent"
    found = (await autoscaling.states(redis))[MODEL]
    assert found["guard"] == "budget"


async def test_the_dearest_for_its_worth_ends_first(redis: Redis) -> None:
    fleet = Fleet(redis, kinds=[{"name": "near", "cold_start_s": 60.0}, {**CHEAP, "most": 4}])
    await fleet.ticks(40, 5.0)
    near, old = await fleet.count()
    assert (near >= 4, old) == (True, 4)
    await fleet.ticks(60, 1.2)
    less, still = await fleet.count()
    assert less < near - 1
    assert still == 4
    assert "near (mi355x): drain" in await fleet.told()
    assert "the dearest for its worth ends first" in await fleet.told()


async def test_constant_work_moves_no_unit_between_kinds(redis: Redis) -> None:
    fleet = Fleet(redis)
    await fleet.ticks(60, 2.5)
    before = len(await Journal(redis).last(pool=MODEL, count=1000))
    await fleet.ticks(80, 2.5)
    after = await Journal(redis).last(pool=MODEL, count=1000)
    assert len(after) - before <= 1


class Ailing(DryActuator):
    """One kind's starts fail, or are refused; `away`: nor can its units be listed."""

    def __init__(
        self, clock: Clock, key: str, *, refuses: bool = False, away: bool = False
    ) -> None:
        super().__init__(clock)
        self._key, self._refuses, self.away = key, refuses, away
        self.asked = 0

    async def units(self, pool: str) -> Sequence[Unit]:
        found = await super().units(pool)
        if pool != self._key:
            return found
        if self.away:
            raise ActuationFailed("no route to it")
        return [replace(u, state=UnitState.FAILED, served_at=None) for u in found]

    async def start(self, pool: str, count: int) -> None:
        if pool == self._key:
            self.asked += count
            if self._refuses:
                raise ActuationFailed("quota exceeded")
        await super().start(pool, count)


@pytest.mark.parametrize("refuses", [False, True])
async def test_another_kind_starts_where_a_start_has_failed_or_was_refused(
    redis: Redis, refuses: bool
) -> None:
    fleet = Fleet(redis, partial(Ailing, key=OLD, refuses=refuses))
    await fleet.ticks(60, 2.0)
    near, old = await fleet.count()
    assert fleet.actuator.asked
    assert near >= 2
    assert old == 0
    text = await fleet.told()
    assert "since a start there went wrong" in text
    assert ("quota exceeded" in text) is refuses


async def test_another_kind_starts_where_a_start_takes_too_long(redis: Redis) -> None:
    fleet = Fleet(redis, partial(DryActuator, by_pool={OLD: 1e9}))
    await fleet.ticks(60, 2.0)
    near, _ = await fleet.count()
    assert near >= 2
    assert "give_up" in await fleet.told()
    assert "a start took too long" in await fleet.told()


async def test_a_kind_that_cannot_be_listed_stops_no_other(redis: Redis) -> None:
    fleet = Fleet(redis, partial(Ailing, key=OLD, away=True))
    await fleet.ticks(40, 2.0)
    fleet.actuator.away = False
    near, old = await fleet.count()
    assert near >= 2
    assert old == 0
    assert "its units cannot be listed" in await fleet.told()


async def test_calls_that_may_not_go_far_get_their_units_near(redis: Redis) -> None:
    """Interactive calls give 112 ms to the way; the far kind is the cheaper one by far."""
    kinds = [{"name": "near", "cold_start_s": 60.0}, {**CHEAP, "hardware": "mi355x", "rtt_s": 0.15}]
    classes = {each.name: each for each in MLPERF_CLASSES}
    fleet = Fleet(redis, kinds=kinds, classes=classes)
    await fleet.ticks(40, 2.0, "interactive")
    near, old = await fleet.count()
    assert near >= 2
    assert old == 0
    assert "100% of the work (interactive) may not go to every kind" in await fleet.told()


async def test_an_operator_approves_kinds_and_not_a_number_alone(redis: Redis) -> None:
    fleet = Fleet(redis, approval=True)
    await fleet.ticks(1, 0.0)
    proposal = (await autoscaling.proposals(redis))[MODEL]
    assert proposal["kinds"] == {"near": [0, 0, 0, 0], "old": [4, 0, 0, 0]}
    assert await autoscaling.approve(redis, MODEL)
    await fleet.ticks(1, 0.0)
    assert await fleet.count() == (0, 4)


@pytest.mark.parametrize("waiting_s", [0.0, 400.0])
async def test_while_calls_wait_the_kind_that_serves_sooner_starts(
    redis: Redis, waiting_s: float
) -> None:
    quick, slow = {"name": "near", "cold_start_s": 60.0}, {**CHEAP, "cold_start_s": 600.0}
    fleet = Fleet(redis, kinds=[quick, slow])
    await fleet.ticks(4, 1.0)
    near, old = await fleet.count()
    assert near == 0
    assert old >= 4
    await fleet.ticks(1, 1.0, waiting_s=waiting_s)
    assert ((await fleet.count())[0] > 0) is bool(waiting_s)
    assert ("with what is missed until it serves" in await fleet.told()) is bool(waiting_s)


async def test_the_cheaper_kind_takes_over_once_it_can_be_had_again(redis: Redis) -> None:
    fleet = Fleet(redis, partial(Ailing, key=OLD, refuses=True))
    await fleet.ticks(60, 2.0)
    before, none = await fleet.count()
    assert (before >= 2, none) == (True, 0)
    fleet.actuator._refuses = False
    fleet.actuator._key = ""
    await fleet.ticks(400, 2.0)
    near, old = await fleet.count()
    assert near < before
    assert near + 0.304 * old >= 2.0
    text = await fleet.told()
    assert "bound by  trade: a cheaper kind of hardware takes over what runs" in text
    assert "a cheaper kind takes over, which saves more by now than its start costs" in text


async def test_who_has_another_kind_takes_it_where_two_want_the_same_machines(redis: Redis) -> None:
    """Both models want machines of the first kind; the one that can goes elsewhere for the rest."""
    dear = {**CHEAP, "cost": 0.5}
    other = {"model": OTHER, "policy": {"most": 8}}
    kinds = [{"name": "near", "cold_start_s": 60.0}, dear]
    fleet = Fleet(redis, kinds=kinds, others=[other], budget={"mi355x": 4, "mi325x": 30})
    for _ in range(6):
        await fleet.ticks(10, 3.0)
        assert (await fleet.count())[0] + len(await fleet.actuator.units(OTHER)) <= 4
    near, old = await fleet.count()
    assert near + len(await fleet.actuator.units(OTHER)) == 4
    assert near + 0.304 * old >= 3.0
    assert "near (mi355x): stay" in await fleet.told()
    assert "the budget of mi355x is spent" in await fleet.told()
