"""What is to be scaled, by whom and within which bounds? The autoscaler's own file (YAML)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoscale.policy import BadPolicy, Policy, from_mapping
from backends.hardware import UnknownHardware, hardware

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
class FleetConfig:
    """All pools. `budget` bounds the units of a kind of hardware, over all pools and at any moment,
    draining ones included. With `approval` every action waits for an operator.
    """

    pools: tuple[PoolConfig, ...]
    actuator: str = "dry"
    tick_s: float = 10.0
    approval: bool = False
    budget: Mapping[str, int] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8010
    drain_within_s: float = 900.0

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
        return parse(values)
    except (BadConfig, BadPolicy, UnknownHardware) as error:
        raise BadConfig(f"{path}: {error}") from error


def parse(values: Any) -> FleetConfig:
    """Make a configuration of plain values; raises BadConfig, BadPolicy or UnknownHardware."""
    if not isinstance(values, Mapping) or not values.get("pools"):
        raise BadConfig("`pools` must list at least one pool")
    _only(values, FleetConfig, "")
    actuator = values.get("actuator", "dry")
    if actuator not in ACTUATORS:
        raise BadConfig(f"actuator {actuator!r}: there are {', '.join(ACTUATORS)}")
    pools = tuple(_pool(each, f"pools[{i}]") for i, each in enumerate(values["pools"]))
    models = [pool.model for pool in pools]
    if len(set(models)) < len(models):
        raise BadConfig("a model may have one pool only: two autoscalers on one pool would fight")
    rest = {k: v for k, v in values.items() if k != "pools"}
    config = FleetConfig(pools, **rest)
    if config.tick_s <= 0:
        raise BadConfig("tick_s must be above 0")
    return config


def _pool(values: Any, where: str) -> PoolConfig:
    if not isinstance(values, Mapping) or not isinstance(values.get("model"), str):
        raise BadConfig(f"{where}: `model` is missing")
    _only(values, PoolConfig, f"{where}.")
    given = dict(values)
    try:
        given["policy"] = from_mapping(given.get("policy") or {})
    except BadPolicy as error:
        raise BadConfig(f"{where}.policy: {error}") from error
    pool = PoolConfig(**given)
    hardware(pool.hardware)
    if pool.replicas_per_unit < 1 or pool.cold_start_s <= 0:
        raise BadConfig(f"{where}: replicas_per_unit and cold_start_s must be above 0")
    return pool


def _only(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    for key in values:
        if key not in known:
            raise BadConfig(f"{where}{key}: unknown; there are {', '.join(known)}")
