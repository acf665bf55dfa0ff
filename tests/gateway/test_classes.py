"""The class of a call follows from its tier and its key."""

import pytest

from backends.slo import MLPERF_CLASSES
from gateway.call import Principal
from gateway.classes import place
from gateway.errors import InvalidRequest

CLASSES = {c.name: c for c in MLPERF_CLASSES}
ANY = Principal("k")


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (None, ("server", None)),
        ("auto", ("server", "default")),
        ("default", ("server", "default")),
        ("priority", ("interactive", "priority")),
        ("fast", ("interactive", "priority")),
        ("flex", ("offline", "flex")),
        ("scale", ("server", "default")),
    ],
)
def test_a_tier_names_a_class(tier: str | None, expected: tuple[str, str | None]) -> None:
    assert place(tier, ANY, CLASSES, "server") == expected


def test_a_keys_own_class_is_its_default() -> None:
    key = Principal("k", default_class="interactive")
    assert place("scale", key, CLASSES, "server") == ("interactive", "scale")


def test_a_tier_that_the_key_may_not_use_is_refused() -> None:
    key = Principal("k", classes=frozenset({"offline"}))
    assert place(None, key, CLASSES, "server") == ("offline", None)
    with pytest.raises(InvalidRequest) as caught:
        place("priority", key, CLASSES, "server")
    assert caught.value.param == "service_tier"


def test_an_unknown_tier_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(InvalidRequest, match="'flex'"):
        place("turbo", ANY, CLASSES, "server")
