"""What is to be scaled, by whom and within which bounds? The autoscaler's own file (YAML)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoscale.policy import BadPolicy, Policy, from_mapping
from backends import measured
from backends.hardware import UnknownHardware
from backends.measured import BUILT_IN, BadProfile, Profiles

ACTUATORS = ("dry", "process", "docker", "kubernetes")


class BadConfig(ValueError):
    """The file cannot be meant; the message names the place."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One pool: a model on a kind of hardware, in units of some replicas.

    `actuation` is what the actuator needs to know of it.
    """

    model: str
    hardware: str = "mi355x"
    replicas_per_unit: int = 1
    cold_start_s: float = 240.0
    policy: Policy = field(default_factory=Policy)
    actuation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SharedConfig:
    """Two pools on the same machines: units change between `calls` and `jobs` (models).

    `swap_s` is how long a start takes on a machine that has just been emptied and has the weights
    near, `empties_s` how long a job that runs may still take.
    """

    calls: str
    jobs: str
    swap_s: float = 60.0
    empties_s: float = 30.0


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """All pools. `budget` bounds the units of a kind of hardware, over all pools and at any moment,
    draining ones included. With `approval` every action waits for an operator. `profiles` are what
    `sluice calibrate` has measured.
    """

    pools: tuple[PoolConfig, ...]
    actuator: str = "dry"
    tick_s: float = 10.0
    approval: bool = False
    budget: Mapping[str, int] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8010
    drain_within_s: float = 900.0
    shared: tuple[SharedConfig, ...] = ()
    profiles: Profiles = BUILT_IN

    @property
    def least(self) -> Mapping[str, int]:
        """Say how many units of each model there are before anybody calls."""
        return {pool.model: pool.policy.least for pool in self.pools}


def read(path: Path) -> FleetConfig:
    """Read a file; raises BadConfig."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise BadConfig(f"{path} is a directory; a fleet is a file (YAML)") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(f"{path}: {error}") from error
    try:
        return parse(values, path.parent)
    except (BadConfig, BadPolicy, BadProfile, UnknownHardware) as error:
        raise BadConfig(f"{path}: {error}") from error


def parse(values: Any, directory: Path = Path()) -> FleetConfig:
    """Make a configuration of plain values; files of profiles are named from `directory`.

    Raises BadConfig, BadPolicy, BadProfile or UnknownHardware.
    """
    if not isinstance(values, Mapping) or not values.get("pools"):
        raise BadConfig("`pools` must list at least one pool")
    _only(values, FleetConfig, "")
    actuator = values.get("actuator", "dry")
    if actuator not in ACTUATORS:
        raise BadConfig(f"actuator {actuator!r}: there are {', '.join(ACTUATORS)}")
    profiles = measured.read(directory / str(each) for each in values.get("profiles") or ())
    pools = tuple(_pool(each, f"pools[{i}]", profiles) for i, each in enumerate(values["pools"]))
    models = [pool.model for pool in pools]
    if len(set(models)) < len(models):
        raise BadConfig("a model may have one pool only: two autoscalers on one pool would fight")
    shared = tuple(
        _shared(each, pools, f"shared[{i}]") for i, each in enumerate(values.get("shared") or ())
    )
    members = [model for each in shared for model in (each.calls, each.jobs)]
    if len(set(members)) < len(members):
        raise BadConfig("shared: a pool may share with one other only")
    rest = {k: v for k, v in values.items() if k not in {"pools", "shared", "profiles"}}
    config = FleetConfig(pools, **rest, shared=shared, profiles=profiles)
    if config.tick_s <= 0:
        raise BadConfig("tick_s must be above 0")
    return config


def _pool(values: Any, where: str, profiles: Profiles) -> PoolConfig:
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), str):
        raise BadConfig(f"{where}: `model` is missing")
    _only(values, PoolConfig, f"{where}.")
    given = dict(values)
    try:
        given["policy"] = from_mapping(given.get("policy") or {})
    except BadPolicy as error:
        raise BadConfig(f"{where}.policy: {error}") from error
    pool = PoolConfig(**given)
    profiles.hardware(pool.hardware)
    if pool.replicas_per_unit < 1 or pool.cold_start_s <= 0:
        raise BadConfig(f"{where}: replicas_per_unit and cold_start_s must be above 0")
    return pool


def _shared(values: Any, pools: tuple[PoolConfig, ...], where: str) -> SharedConfig:
    if not isinstance(values, Mapping) or not {"calls", "jobs"} <= values.keys():
        raise BadConfig(f"{where}: `calls` and `jobs` must each name a pool's model")
    _only(values, SharedConfig, f"{where}.")
    shared = SharedConfig(**values)
    by_model = {pool.model: pool for pool in pools}
    for model in (shared.calls, shared.jobs):
        if model not in by_model:
            raise BadConfig(f"{where}: no pool has the model {model!r}")
    if by_model[shared.calls].hardware != by_model[shared.jobs].hardware:
        raise BadConfig(f"{where}: both pools must be of the same hardware")
    if shared.swap_s <= 0 or shared.empties_s < 0:
        raise BadConfig(f"{where}: swap_s must be above 0 and empties_s not below")
    return shared


def _only(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in values:
        if key not in known:
            raise BadConfig(f"{where}{key}: unknown; there are {', '.join(known)}")
