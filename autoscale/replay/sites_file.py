"""Which kinds of replicas stand where? A file of sites (YAML), for `sluice replay --sites`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from autoscale.config import BadConfig
from autoscale.places import MOST
from autoscale.replay.kind import Kind
from autoscale.replay.sites import Site
from backends.capacity import StepLaw
from backends.hardware import REFERENCE_HARDWARE, UnknownHardware, profile

_NUMBERS = {"rtt_s", "cold_start_s", "cost", "most", "c0_s", "c_tok_s", "c_kv_s"}
_KNOWN = {"name", "hardware", *_NUMBERS}


def read_sites(path: Path, kind: Kind, cold_start_s: float) -> list[Site]:
    """Read a list of sites; raises BadConfig.

    Each has a `name`, and may have `hardware`, constants of the law in its place (seconds: `c0_s`,
    `c_tok_s`, `c_kv_s`), `rtt_s`, `cold_start_s`, `cost` and `most`. A law that was slowed down for
    the replay is slowed down for all hardware alike.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(f"{path}: {error}") from error
    if not isinstance(values, list) or not values:
        raise BadConfig(f"{path}: it must list at least one site")
    sites = [_site(each, f"{path}[{i}]", kind, cold_start_s) for i, each in enumerate(values)]
    if len({site.name for site in sites}) < len(sites):
        raise BadConfig(f"{path}: two sites have the same name")
    if sites[0].rtt_s > min(site.rtt_s for site in sites):
        raise BadConfig(f"{path}: the first site must be the nearest; policies count in its units")
    return sites


def _site(values: Any, where: str, kind: Kind, cold_start_s: float) -> Site:
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise BadConfig(f"{where}: `name` is missing")
    for key, value in values.items():
        if key not in _KNOWN:
            raise BadConfig(f"{where}.{key}: unknown; there are {', '.join(sorted(_KNOWN))}")
        if key in _NUMBERS and (not isinstance(value, int | float) or value < 0):
            raise BadConfig(f"{where}.{key}: must be a number and not below 0")
    return Site(
        values["name"],
        _kind(values, where, kind),
        rtt_s=float(values.get("rtt_s", 0.0)),
        cold_start_s=float(values.get("cold_start_s", cold_start_s)),
        cost=float(values.get("cost", 1.0)),
        most=int(values.get("most", MOST)),
    )


def _kind(values: Mapping[str, Any], where: str, kind: Kind) -> Kind:
    model = kind.profile.model
    try:
        known = profile(model, str(values.get("hardware", REFERENCE_HARDWARE)))
    except UnknownHardware as error:
        raise BadConfig(f"{where}: {error}") from error
    slow = kind.law.c_tok_s / kind.profile.law.c_tok_s
    law = StepLaw(
        float(values.get("c0_s", known.law.c0_s)),
        float(values.get("c_tok_s", known.law.c_tok_s * slow)),
        float(values.get("c_kv_s", known.law.c_kv_s * slow)),
    )
    return replace(kind, profile=known, law=law)
