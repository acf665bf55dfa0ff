"""Under which promise does a call run? The key says what may be asked, the tier what is. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from backends.slo import Class
from gateway.call import Principal
from gateway.errors import InvalidRequest

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
