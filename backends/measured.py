"""What do files of `sluice calibrate` say that the built-in profiles do not?

A file measures the step law of one model on one kind of GPU, and names the mean call that it was
measured for; the rest (KV cache, context) stays as built in for hardware of that name, else as for
an MI355X, and is labelled so.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backends.capacity import Mix, StepLaw
from backends.hardware import Hardware, Profile, UnknownHardware, hardware, profile

_LIKE = "mi355x"
_LAW = ("c0_s", "c_tok_s", "c_kv_s")


class BadProfile(ValueError):
    """A file that is no profile; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """What is known of models on kinds of GPU: measured, else built in."""

    measured: Mapping[tuple[str, str], Profile] = field(default_factory=dict)

    def profile(self, model: str, hardware_name: str) -> Profile:
        """Give a model's profile; UnknownHardware where none was measured nor is built in."""
        found = self.measured.get((model, hardware_name))
        return found if found is not None else profile(model, hardware_name)

    def hardware(self, name: str) -> Hardware:
        """Give the hardware of a name, built in or measured; raises UnknownHardware."""
        for each in self.measured.values():
            if each.hardware.name == name:
                return each.hardware
        return hardware(name)


BUILT_IN = Profiles()


def read(paths: Iterable[Path]) -> Profiles:
    """Read files; of two for the same model and hardware the later counts. Raises BadProfile."""
    found = {}
    for path in paths:
        each = _read(path)
        found[each.model, each.hardware.name] = each
    return Profiles(MappingProxyType(found))


def _read(path: Path) -> Profile:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadProfile(f"{path}: {error}") from error
    if not isinstance(document, Mapping):
        raise BadProfile(f"{path}: not a profile of `sluice calibrate`")
    model, name = document.get("model"), document.get("hardware")
    if not isinstance(model, str) or not isinstance(name, str) or not model or not name:
        raise BadProfile(f"{path}: `model` and `hardware` must be names")
    law = _law(path, document.get("law"))
    note = str(document.get("provenance") or "measured")
    base = _base(model, name)
    provenance = {**base.provenance, **dict.fromkeys(_LAW, note)}
    mix = base.mix
    if document.get("mix") is not None:
        mix = _mix(path, document["mix"], base.mix)
        provenance |= dict.fromkeys(("input_tokens", "output_tokens"), "as told to calibrate")
    return replace(base, law=law, mix=mix, provenance=MappingProxyType(provenance))


def _mix(path: Path, values: Any, base: Mix) -> Mix:
    try:
        found = Mix(float(values["input_tokens"]), float(values["output_tokens"]), base.spread)
    except (TypeError, KeyError, ValueError) as error:
        raise BadProfile(f"{path}: `mix` must give input_tokens and output_tokens") from error
    if not (math.isfinite(found.resident_tokens) and found.input_tokens > 0 < found.output_tokens):
        raise BadProfile(f"{path}: `mix` must hold tokens, each above 0")
    return found


def _law(path: Path, values: Any) -> StepLaw:
    if not isinstance(values, Mapping) or not set(_LAW) <= values.keys():
        raise BadProfile(f"{path}: `law` must give {', '.join(_LAW)}")
    given = [*_LAW, *(("c_pre_s",) if values.get("c_pre_s") is not None else ())]
    numbers = [values[each] for each in given]
    for each in numbers:
        is_number = isinstance(each, (int, float)) and not isinstance(each, bool)
        if not is_number or not math.isfinite(each) or each < 0:
            raise BadProfile(f"{path}: `law` must hold seconds, none below 0")
    law = StepLaw(*(float(each) for each in numbers))
    if law.c0_s <= 0.0 or law.c_tok_s + law.c_kv_s <= 0.0:
        raise BadProfile(f"{path}: a step takes time, and so does a token: c0_s and c_tok_s are 0")
    return law


def _base(model: str, name: str) -> Profile:
    try:
        return profile(model, name)
    except UnknownHardware:
        like = profile(model, _LIKE)
        note = f"assumption: as of {_LIKE}, since {name!r} is not a known kind of GPU"
        mine = replace(like.hardware, name=name, title=name, provenance=note)
        provenance = {**like.provenance, "kv_tokens": note, "gpus_per_node": note}
        return replace(like, hardware=mine, provenance=MappingProxyType(provenance))
