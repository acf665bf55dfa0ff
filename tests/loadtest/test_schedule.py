"""Does the schedule equal LoadGen's, to the nanosecond?"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from loadtest import order, schedule
from loadtest.seeds import ROUNDS, named

V60 = ROUNDS["v6.0"]

# Six performance runs published by AMD in MLPerf Inference v6.0: target rate, minimum duration (s),
# dataset, queries, `generated_query_duration` (ns) of the published logs, sha256 of the arrivals as
# int64 LE.
INTERACTIVE_8X = "9f4ac46f5a60fb329681dd91fab30cc7ff76df211c2f18d730d42ca03a01c4f8"
SERVER_8X = "165dbee594113047adf518dab5590e17969f62a75d81790c8127f86cf2989363"
GPT_OSS_8X = "ce7d30ed2f2f4601c5ee7523a671dffd633b36e6c4184d2dda6641d759c73e49"
PUBLISHED = [
    (263, 600, 24576, 172032, 652532746021, INTERACTIVE_8X),
    (360, 1800, 24576, 663552, 1844698428358, SERVER_8X),
    (61.2, 1800, 6396, 115128, 1878316006269, GPT_OSS_8X),
    (3650, 1200, 24576, 4399104, 1205944035744, ""),
    (2800, 1200, 24576, 3366912, 1203723549759, ""),
    (705, 600, 6396, 428532, 607608140050, ""),
]
UNIT = [
    (1, "6551c57e1de4d9890709475ddb7dd2565b07e31ddc908332092029a90523323c", 1021242442286),
    (100, "d96b6ae1521000a13539ec19e83bd823af7df8f1659f3dc902d5fa672c819f53", 10212423941),
]


@pytest.mark.parametrize(("qps", "min_s", "dataset", "count", "duration_ns", "sha"), PUBLISHED)
def test_a_published_run_is_reproduced_to_the_nanosecond(
    qps: float, min_s: int, dataset: int, count: int, duration_ns: int, sha: str
) -> None:
    gaps = schedule.loadgen_gaps_ns(V60.arrivals, qps, count)
    starts = schedule.arrivals_of(gaps)
    assert int(gaps.sum()) == duration_ns
    if sha:
        assert hashlib.sha256(starts.astype("<i8").tobytes()).hexdigest() == sha
    assert starts[-1] >= min_s * schedule.NS
    assert starts[count - dataset - 1] < min_s * schedule.NS


@pytest.mark.parametrize(("qps", "sha", "duration_ns"), UNIT)
def test_the_unit_vectors_hold(qps: float, sha: str, duration_ns: int) -> None:
    gaps = schedule.loadgen_gaps_ns(V60.arrivals, qps, 1000)
    starts = schedule.arrivals_of(gaps).astype("<i8")
    assert int(gaps.sum()) == duration_ns
    assert hashlib.sha256(starts.tobytes()).hexdigest() == sha


def test_a_server_run_is_whole_passes_that_reach_the_minimum_duration() -> None:
    made = schedule.server(
        V60, 263, dataset_size=24576, min_duration_s=600, min_queries=100, whole=True
    )
    assert len(made) == 172032
    assert made.arrivals_ns[:6].tolist() == [0, 410885, 2868435, 3632150, 5273058, 12149497]
    assert made.arrivals_ns[-1] >= 600 * schedule.NS
    first, second = made.samples[:24576], made.samples[24576 : 2 * 24576]
    assert np.array_equal(first, second), "every pass repeats one permutation"


@pytest.mark.parametrize(
    ("size", "first", "sha"),
    [
        (
            24576,
            [9344, 21077, 12228, 5665, 11698, 16809, 11196, 10155, 13519, 7876],
            "ab2f145dcb50976a557829b7a87a24a40d1afcc433a410bd86633c9a384ba0d6",
        ),
        (
            6396,
            [175, 1584, 2184, 6065, 1277, 4850, 1024, 788, 3370, 5912],
            "a734e78743e6c4a2e6c5ba9b14248a38d68a77d05106c260680a7b97e17c278a",
        ),
    ],
)
def test_the_sample_order_is_loadgens(size: int, first: list[int], sha: str) -> None:
    made = order.equal_issue(V60, size, size)
    assert made[:10].tolist() == first
    assert hashlib.sha256(made.astype("<i4").tobytes()).hexdigest() == sha


def test_a_small_dataset_gets_as_many_permutations_as_the_minimum_count_needs() -> None:
    made = order.equal_issue(V60, 40, 240, min_queries=100)
    passes = made.reshape(6, 40)
    assert all(sorted(one) == list(range(40)) for one in passes.tolist())
    assert np.array_equal(passes[:3], passes[3:])
    assert not np.array_equal(passes[0], passes[1])


def test_shards_split_one_schedule_without_overlap() -> None:
    made = schedule.constant(10, 10, dataset_size=7)
    parts = [made.shard(k, 3) for k in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    with pytest.raises(ValueError, match="no shard"):
        made.shard(3, 3)


def test_own_processes_have_the_rate_that_was_asked_for() -> None:
    assert len(schedule.constant(20, 30, dataset_size=5)) == 600
    for made in (
        schedule.poisson(1, 50, 200, dataset_size=5),
        schedule.burst(1, 50, 200, dataset_size=5),
    ):
        assert 9000 < len(made) < 11000
        assert np.all(np.diff(made.arrivals_ns) >= 0)
    again = schedule.poisson(1, 50, 200, dataset_size=5)
    assert again.digest == schedule.poisson(1, 50, 200, dataset_size=5).digest
    assert again.digest != schedule.poisson(2, 50, 200, dataset_size=5).digest


def test_offline_is_one_query_with_a_tenth_more_than_needed() -> None:
    made = schedule.offline(V60, 100, dataset_size=64, min_duration_s=10, min_samples=1, whole=True)
    assert len(made) == 1152
    assert set(made.arrivals_ns.tolist()) == {0}


def test_replay_keeps_gaps_and_scales_them() -> None:
    made = schedule.replay(np.array([5.0, 3.0, 9.0]), speed=2)
    assert made.arrivals_ns.tolist() == [0, schedule.NS, 3 * schedule.NS]
    assert made.samples.tolist() == [1, 0, 2]


def test_a_seed_has_a_name_or_is_a_number() -> None:
    assert named("v6.1").arrivals == 16159082839903944936
    assert named("7").arrivals == 9
    with pytest.raises(ValueError, match=r"v6\.0, v6\.1"):
        named("v5")


@pytest.mark.parametrize("qps", [0, -1, float("nan")])
def test_a_rate_is_positive(qps: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        schedule.server(V60, qps, dataset_size=4, min_duration_s=1, min_queries=1, whole=True)
