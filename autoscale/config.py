"""What is to be scaled, by whom and within which bounds? The autoscaler's own file (YAML)."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoscale.places import MOST
from autoscale.policy import BadPolicy, Policy, from_mapping
from backends import measured
from backends.hardware import UnknownHardware
from backends.measured import BUILT_IN, BadProfile, Profiles

ACTUATORS = ("dry", "process", "docker", "kubernetes")
_NAMED = ("docker", "kubernetes")  # which find units by what `actuation` says
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# The least that a kind's numbers may be, and whether they are whole.
_BOUNDS = {
    "replicas_per_unit": (1, True),
    "most": (0, True),
    "cost": (1e-9, False),
    "cold_start_s": (1e-3, False),
    "rtt_s": (0, False),
}


class BadConfig(ValueError):
    """The file cannot be meant; the message names the place."""


@dataclass(frozen=True, slots=True)
class KindConfig:
    """One kind of unit that a pool may run: on which hardware, of how many replicas, what it costs
    while it is there, how many there may be, how long a start takes and how far it is.

    `key` is the name by which the actuator knows it, `actuation` what the actuator needs to know.
    `site` is where its replicas say that they stand, None: it is not looked at.
    """

    name: str
    key: str = ""
    hardware: str = "mi355x"
    replicas_per_unit: int = 1
    cost: float = 1.0
    most: int = MOST
    cold_start_s: float = 240.0
    rtt_s: float = 0.0
    site: str | None = None
    actuation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One pool: a model on a kind of hardware, in units of some replicas.

    `actuation` is what the actuator needs to know of it. With `kinds` its units may be of several
    kinds; what is above them is then the first's, in whose units the policy counts.
    """

    model: str
    hardware: str = "mi355x"
    replicas_per_unit: int = 1
    cold_start_s: float = 240.0
    policy: Policy = field(default_factory=Policy)
    actuation: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[KindConfig, ...] = ()

    @property
    def every_kind(self) -> tuple[KindConfig, ...]:
        """Its kinds; of a pool that lists none, the one that it is of."""
        alone = KindConfig(
            self.hardware,
            key=self.model,
            hardware=self.hardware,
            replicas_per_unit=self.replicas_per_unit,
            cold_start_s=self.cold_start_s,
            actuation=self.actuation,
        )
        return self.kinds or (alone,)


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
    def kinds(self) -> Mapping[str, KindConfig]:
        """All kinds of all pools, by the key under which the actuator knows them."""
        return {kind.key: kind for pool in self.pools for kind in pool.every_kind}

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
    keys = [kind.key for pool in pools for kind in pool.every_kind]
    if len(set(keys)) < len(keys):
        raise BadConfig("a kind is known as MODEL/NAME, which is another pool's model")
    if actuator in _NAMED:
        for i, pool in enumerate(pools):
            named = [kind.actuation for kind in pool.kinds]
            if any(each in named[:n] for n, each in enumerate(named)):
                raise BadConfig(f"pools[{i}].kinds: with {actuator} each needs its own `actuation`")
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
    if "kinds" in given:
        given |= _kinds(given, where, profiles)
    try:
        given["policy"] = from_mapping(given.get("policy") or {})
    except BadPolicy as error:
        raise BadConfig(f"{where}.policy: {error}") from error
    pool = PoolConfig(**given)
    profiles.hardware(pool.hardware)
    if pool.replicas_per_unit < 1 or pool.cold_start_s <= 0:
        raise BadConfig(f"{where}: replicas_per_unit and cold_start_s must be above 0")
    return pool


def _kinds(values: Mapping[str, Any], where: str, profiles: Profiles) -> dict[str, Any]:
    """Give what `kinds` say of a pool: them, and as the pool's own what the first one says."""
    for key in ("hardware", "replicas_per_unit", "cold_start_s", "actuation"):
        if key in values:
            raise BadConfig(f"{where}.{key}: belongs into each of `kinds` where a pool lists them")
    listed = values["kinds"]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise BadConfig(f"{where}.kinds: must list at least one kind")
    model = values["model"]
    kinds = [_kind(each, model, f"{where}.kinds[{i}]", profiles) for i, each in enumerate(listed)]
    if len({kind.name for kind in kinds}) < len(kinds):
        raise BadConfig(f"{where}.kinds: two have the same name")
    if kinds[0].rtt_s > min(kind.rtt_s for kind in kinds):
        raise BadConfig(
            f"{where}.kinds: the first must be the nearest; policies count in its units"
        )
    of = kinds[0]
    return {
        "kinds": tuple(kinds),
        "hardware": of.hardware,
        "replicas_per_unit": of.replicas_per_unit,
        "cold_start_s": max(kind.cold_start_s for kind in kinds),
        "actuation": of.actuation,
    }


def _kind(values: Any, model: str, where: str, profiles: Profiles) -> KindConfig:
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise BadConfig(f"{where}: `name` is missing")
    _only(values, KindConfig, f"{where}.", hidden=("key",))
    if not _NAME.fullmatch(values["name"]):
        raise BadConfig(f"{where}.name: {values['name']!r}: letters, digits, '.', '_' and '-' only")
    for key, (least, whole) in _BOUNDS.items():
        value = values.get(key, 1)
        is_number = isinstance(value, int if whole else int | float) and value is not True
        if not is_number or value < least:
            a = "a whole number" if whole else "a number"
            raise BadConfig(f"{where}.{key}: must be {a}, {least} or more; it is {value!r}")
    if not isinstance(values.get("actuation") or {}, Mapping):
        raise BadConfig(f"{where}.actuation: must be a mapping")
    given = {**values, "actuation": values.get("actuation") or {}}
    kind = KindConfig(**given, key=f"{model}/{values['name']}")
    profiles.hardware(kind.hardware)
    return kind


def _shared(values: Any, pools: tuple[PoolConfig, ...], where: str) -> SharedConfig:
    if not isinstance(values, Mapping) or not {"calls", "jobs"} <= values.keys():
        raise BadConfig(f"{where}: `calls` and `jobs` must each name a pool's model")
    _only(values, SharedConfig, f"{where}.")
    shared = SharedConfig(**values)
    by_model = {pool.model: pool for pool in pools}
    for model in (shared.calls, shared.jobs):
        if model not in by_model:
            raise BadConfig(f"{where}: no pool has the model {model!r}")
    if by_model[shared.calls].kinds or by_model[shared.jobs].kinds:
        raise BadConfig(f"{where}: a pool that lists `kinds` shares its machines with none")
    if by_model[shared.calls].hardware != by_model[shared.jobs].hardware:
        raise BadConfig(f"{where}: both pools must be of the same hardware")
    if shared.swap_s <= 0 or shared.empties_s < 0:
        raise BadConfig(f"{where}: swap_s must be above 0 and empties_s not below")
    return shared


def _only(
    values: Mapping[str, Any], kind: type, where: str, *, hidden: Collection[str] = ()
) -> None:
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    known = [name for name in names if name not in hidden]
    for key in values:
        if key not in known:
            raise BadConfig(f"{where}{key}: unknown; there are {', '.join(known)}")
