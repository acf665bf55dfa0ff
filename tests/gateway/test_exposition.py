"""The metrics of several processes add up to those of one, and never fall."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import add_up, lasting, read, write
from gateway.meters import Counts, Spreads


def counted(calls: int, seconds: float, ready: int) -> str:
    """Give what one process says."""
    registry = CollectorRegistry()
    counts = Counts("calls", "How many.", ["model", "said"], registry)
    counts.labels("m", 'a "word"\nand another').inc(calls)
    spreads = Spreads("took_seconds", "How long.", ["model"], (0.1, 1, 10), registry)
    for _ in range(calls):
        spreads.labels("m").observe(seconds)
    Gauge("ready", "Replicas.", ["model"], registry=registry).labels("m").set(ready)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read a text as Prometheus would."""
    return {
        (s.name, s.labels.get("le", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
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
    assert write(read("")) == ""


def test_adding_changes_none_of_the_parts() -> None:
    part = read(counted(1, 0.1, 1))
    add_up([part, part])
    assert write(part) == write(read(counted(1, 0.1, 1)))
