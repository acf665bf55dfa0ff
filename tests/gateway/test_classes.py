"""The class of a call follows from its tier and its key."""

import pytest

from backends.slo import MLPERF_CLASSES, Targets
from gateway.call import Principal
from gateway.classes import TPOT_HINT, TTFT_HINT, hinted, place
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


def hints(
    ttft_ms: str | None = None, tpot_ms: str | None = None, key: Principal = ANY
) -> Targets | None:
    given = {TTFT_HINT: ttft_ms, TPOT_HINT: tpot_ms}
    headers = {name: value for name, value in given.items() if value is not None}
    return hinted(headers, "server", "llama2-70b", key, CLASSES)


def test_without_hints_the_class_decides() -> None:
    assert hints() is None


def test_a_looser_limit_is_granted_and_the_other_stays_the_classs() -> None:
    assert hints(ttft_ms="9000") == Targets(ttft_s=9.0, tpot_s=0.2)
    assert hints(tpot_ms="500") == Targets(ttft_s=2.0, tpot_s=0.5)


def test_a_tighter_limit_goes_down_to_what_the_key_may_use() -> None:
    assert hints(ttft_ms="10", tpot_ms="1") == Targets(ttft_s=0.45, tpot_s=0.04)
    modest = Principal("k", classes=frozenset({"server", "offline"}))
    assert hints(ttft_ms="10", tpot_ms="1", key=modest) == Targets(ttft_s=2.0, tpot_s=0.2)


@pytest.mark.parametrize("value", ["soon", "", "-1", "0", "nan", "inf", "1e12"])
def test_a_hint_that_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        hints(ttft_ms=value)
    assert caught.value.param == TTFT_HINT
