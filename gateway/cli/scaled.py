"""How does `sluice up --autoscale` start and end replicas of this machine as load asks for them?"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from autoscale import commands
from autoscale import config as configuration
from autoscale.actuate.process import Launch, ProcessActuator, Recipe, processes
from autoscale.config import FleetConfig, KindConfig, PoolConfig
from autoscale.policy import Policy
from backends.hardware import REFERENCE_HARDWARE, known_hardware
from backends.registry import replica_id
from backends.slo import Class
from backends.store import connect
from gateway.cli.data_dir import DataDir
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.local_fleet import SIMULATED_MODELS, Wanted, simulated_unit
from gateway.cli.options import say

LOAD_S = 10.0  # a simulated replica's, as if it had weights to load
MOST = 8
# The policy's areas are made for ticks of 10 s and starts of minutes; here starts take seconds.
_TICK_S = 1.0
_QUICK = Policy(up_area_s=0.3, down_area_s=15.0, actions_per_day=0.0, idle_s=60.0)


def fleet_of(path: Path | None, wanted: Wanted) -> FleetConfig:
    """Read what is to be scaled; without a file (None) take a small fleet of each model.

    Raises CommandFailed.
    """
    if wanted.engine != "simulated":
        raise CommandFailed("--autoscale starts simulated replicas: --engine simulated", USAGE)
    if path is None:
        policy = replace(_QUICK, least=wanted.replicas, most=max(MOST, wanted.replicas))
        pools = tuple(
            PoolConfig(model, cold_start_s=LOAD_S, policy=policy, actuation={"load_s": LOAD_S})
            for model in SIMULATED_MODELS
        )
        return FleetConfig(pools, "process", _TICK_S, port=0, drain_within_s=wanted.drain_s)
    try:
        fleet = configuration.read(path)
    except configuration.BadConfig as error:
        raise CommandFailed(str(error), USAGE) from error
    if fleet.actuator != "process":
        raise CommandFailed(f"{path}: `sluice up` scales with `actuator: process`", USAGE)
    for key, kind in fleet.kinds.items():
        unknown = kind.actuation.keys() - {"load_s"}
        if unknown or kind.replicas_per_unit != 1:
            raise CommandFailed(
                f"{path}: {key}: a unit here is one replica, and `actuation` is load_s",
                USAGE,
            )
    return fleet


@asynccontextmanager
async def scaled(
    fleet: FleetConfig, wanted: Wanted, data: DataDir, store_url: str, classes: Mapping[str, Class]
) -> AsyncIterator[ProcessActuator]:
    """Scale while the block runs; then let every replica finish and end it."""
    recipes = {
        kind.key: _recipe(pool.model, kind, wanted, data, store_url)
        for pool in fleet.pools
        for kind in pool.every_kind
    }
    store = connect(store_url)
    try:
        async with (
            processes(
                recipes, store_url, drain_within_s=fleet.drain_within_s, on_progress=_quiet
            ) as actuator,
            commands.scaling(fleet, classes, store, actuator, say),
        ):
            yield actuator
    finally:
        await store.aclose()


def _recipe(model: str, kind: KindConfig, wanted: Wanted, data: DataDir, store_url: str) -> Recipe:
    load_s = float(kind.actuation.get("load_s", 0.0))
    # What is known of measured hardware is its law, not how to simulate it.
    hardware = kind.hardware if kind.hardware in known_hardware() else REFERENCE_HARDWARE

    def launch(number: int) -> Launch:
        spec = simulated_unit(model, wanted, data, store_url, load_s=load_s, hardware=hardware)
        name = f"{kind.key} unit {number} on port {spec.url.rpartition(':')[2]}"
        say(f"{name}: starting")
        return Launch(replace(spec, name=name), ids=(replica_id(model, spec.url),))

    return launch


def _quiet(_: str) -> None:
    """Say nothing of a start's progress: the autoscaler's journal tells what became of it."""
