"""The metrics of several processes add up to those of one, and never fall."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import Form, add_up, joined, lasting, read, tell, write
from gateway.meters import Counts, Spreads


def counted(
    calls: int, seconds: float, ready: int, trace: str | None = None, at: float = 0.0
) -> str:
    """Give what one process says."""
    return tell(registry(calls, seconds, ready, trace, at), Form.OPENMETRICS).decode()


def registry(
    calls: int, seconds: float, ready: int, trace: str | None = None, at: float = 0.0
) -> CollectorRegistry:
    """Give what one process has counted."""
    registry = CollectorRegistry()
    counts = Counts("calls", "How many.", ["model", "said"], registry)
    counts.labels("m", 'a "word"\nand another').inc(calls)
    spreads = Spreads("took_seconds", "How long.", ["model"], (0.1, 1, 10), registry)
    for _ in range(calls):
        spreads.labels("m").observe(seconds, trace, at)
    Gauge("ready", "Replicas.", ["model"], registry=registry).labels("m").set(ready)
    return registry


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read a text as Prometheus would."""
    return {
        (s.name, s.labels.get("le", "")): s.value
        for family in openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for s in family.samples
    }


def traces(text: str) -> dict[str, tuple[str, float]]:
    """Give the exemplars' traces and values by their buckets."""
    return {
        s.labels["le"]: (s.exemplar.labels["trace_id"], s.exemplar.value)
        for family in openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for s in family.samples
        if s.exemplar is not None
    }


def test_counts_are_added_and_gauges_are_not() -> None:
    total = samples(write(add_up([read(counted(3, 0.1, 8)), read(counted(4, 5.0, 7))])))
    assert total["calls_total", ""] == 7
    assert total["took_seconds_bucket", "0.1"] == 3
    assert total["took_seconds_bucket", "1.0"] == 3
    assert total["took_seconds_bucket", "10.0"] == 7
    assert total["took_seconds_bucket", "+Inf"] == total["took_seconds_count", ""] == 7
    assert total["took_seconds_sum", ""] == 20.3
    assert total["ready", ""] == 8


def test_a_process_that_has_ended_still_counts_but_has_nothing_ready() -> None:
    ended = lasting(read(counted(3, 0.1, 8)))
    total = samples(write(add_up([ended, read(counted(1, 0.1, 2))])))
    assert total["calls_total", ""] == 4
    assert total["ready", ""] == 2


def test_what_is_read_is_written_again() -> None:
    text = counted(2, 3.0, 1)
    assert samples(write(read(text))) == samples(text)
    assert write(read(text)) == text
    assert write({}, Form.TEXT) == ""


def test_the_older_format_is_what_prometheus_client_writes() -> None:
    found = registry(2, 3.0, 1, "ab", 5.0)
    text = generate_latest(found).decode()
    assert write(read(tell(found, Form.OPENMETRICS).decode()), Form.TEXT) == text
    assert [*text_string_to_metric_families(text)]


def test_of_exemplars_the_newest_holds() -> None:
    parts = [counted(1, 0.5, 1, "aa", 20.0), counted(1, 0.6, 1, "bb", 30.0)]
    parts += [counted(1, 0.7, 1, "cc", 10.0), counted(1, 5.0, 1, "dd", 1.0), counted(1, 0.5, 1)]
    total = write(add_up(read(each) for each in parts))
    assert traces(total) == {"1.0": ("bb", 0.6), "10.0": ("dd", 5.0)}
    assert traces(write(read(total))) == traces(total)
    assert "# {" not in write(read(total), Form.TEXT)


def test_a_label_may_hold_what_looks_like_an_exemplar() -> None:
    registry = CollectorRegistry()
    counts = Counts("calls", "How many.", ["said"], registry)
    counts.labels('} 5 # {trace_id="x"} 1 "\\').inc(3)
    text = tell(registry, Form.OPENMETRICS).decode()
    assert write(read(text)) == text
    (family,) = read(text).values()
    assert ([*family.values.values()], family.exemplars) == ([3.0], {})


def test_texts_that_are_joined_have_one_end() -> None:
    one = tell(registry(1, 1.0, 1), Form.OPENMETRICS)
    other = CollectorRegistry()
    Gauge("more", "More.", registry=other).set(2)
    text = joined([one, tell(other, Form.OPENMETRICS)], Form.OPENMETRICS).decode()
    assert samples(text)["more", ""] == 2
    assert text.count("# EOF") == 1


def test_who_names_openmetrics_gets_it() -> None:
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    assert Form.accepted(asked) is Form.OPENMETRICS
    assert Form.accepted("*/*") is Form.accepted("") is Form.TEXT


def test_adding_changes_none_of_the_parts() -> None:
    part = read(counted(1, 0.1, 1))
    add_up([part, part])
    assert write(part) == write(read(counted(1, 0.1, 1)))
