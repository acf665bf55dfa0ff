"""Under which promise does a call run? The key says what may be asked, the tier what is. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from backends.slo import Class, Targets
from gateway.call import Principal
from gateway.errors import InvalidRequest

TTFT_HINT, TPOT_HINT = "x-slo-ttft-ms", "x-slo-tpot-ms"
LONGEST_HINT_MS = 86_400_000.0
TIERS = ("auto", "default", "flex", "scale", "priority", "fast")


class Placement(NamedTuple):
    """The class of a call, and the tier to echo (None: the caller named none)."""

    class_name: str
    served_tier: str | None


def place(
    tier: str | None, principal: Principal, classes: Mapping[str, Class], default_class: str
) -> Placement:
    """Choose the class: priority and fast are interactive, flex is offline, else the key's own.

    Raises InvalidRequest for a tier that is unknown or that the key may not use.
    """
    own = principal.default_class or default_class
    if not principal.may_use_class(own):
        own = next((name for name in classes if principal.may_use_class(name)), own)
    match tier:
        case None:
            return Placement(own, None)
        case "auto" | "default":
            return Placement(own, "default")
        case "scale":
            return Placement(own, "scale" if principal.default_class else "default")
        case "priority" | "fast":
            return _asked("interactive", "priority", tier, principal, classes)
        case "flex":
            return _asked("offline", "flex", tier, principal, classes)
        case _:
            known = ", ".join(f"'{t}'" for t in TIERS)
            raise InvalidRequest(
                f"Invalid value for 'service_tier': '{tier[:64]}'. Supported values are: {known}.",
                param="service_tier",
            )


def _asked(
    name: str, served: str, tier: str, principal: Principal, classes: Mapping[str, Class]
) -> Placement:
    if name not in classes or not principal.may_use_class(name):
        raise InvalidRequest(
            f"This key may not use the service tier '{tier}'.", param="service_tier"
        )
    return Placement(name, served)


def hinted(
    headers: Mapping[str, str],
    class_name: str,
    model: str,
    principal: Principal,
    classes: Mapping[str, Class],
) -> Targets | None:
    """Give the limits that a call asks for by `x-slo-ttft-ms` and `x-slo-tpot-ms`; None: none.

    A looser limit than the class's is always granted, a tighter one down to the tightest class that
    the key may use. Raises InvalidRequest for what is no number of milliseconds.
    """
    ttft_s = _hint(headers, TTFT_HINT)
    tpot_s = _hint(headers, TPOT_HINT)
    if ttft_s is None and tpot_s is None:
        return None
    own = classes[class_name].targets(model)
    open_to = [c.targets(model) for n, c in classes.items() if principal.may_use_class(n)]
    least_ttft_s = min((t.ttft_s for t in open_to if t.ttft_s is not None), default=0.0)
    least_tpot_s = min((t.tpot_s for t in open_to if t.tpot_s is not None), default=0.0)
    return replace(
        own,
        ttft_s=own.ttft_s if ttft_s is None else max(ttft_s, least_ttft_s),
        tpot_s=own.tpot_s if tpot_s is None else max(tpot_s, least_tpot_s),
    )


def _hint(headers: Mapping[str, str], name: str) -> float | None:
    given = headers.get(name)
    if given is None:
        return None
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= LONGEST_HINT_MS:
        raise InvalidRequest(
            f"Invalid value for '{name}': milliseconds are expected.",
            param=name,
        )
    return value / 1e3
