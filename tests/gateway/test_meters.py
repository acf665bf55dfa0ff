"""Our cheap meters say what prometheus_client's own would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.meters import Counts, Spreads

BOUNDS = (0.001, 0.5, 1, 2.5, 160)


@given(st.lists(st.floats(min_value=0, max_value=1000) | st.sampled_from(BOUNDS), max_size=30))
def test_a_histogram_reads_like_prometheus_own(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spreads = Spreads("took_seconds", "How long.", ["model"], BOUNDS, ours)
    histogram = Histogram("took_seconds", "How long.", ["model"], buckets=BOUNDS, registry=theirs)
    for value in values:
        spreads.labels("m").observe(value)
        histogram.labels("m").observe(value)
    expected = [
        line
        for line in generate_latest(theirs).decode().splitlines()
        if "_created" not in line and "_sum" not in line
    ]
    found = [each for each in generate_latest(ours).decode().splitlines() if "_sum" not in each]
    assert found == expected
    assert spreads.labels("m").total == pytest.approx(sum(values))


def test_labels_must_be_as_many_as_their_names() -> None:
    counts = Counts("calls", "How many.", ["model"], CollectorRegistry())
    with pytest.raises(ValueError, match="labels are model"):
        counts.labels("m", "more")
