"""Do the benchmarks of the verdict and of the search count what their calculation says?"""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest

from bench.certify import generator
from bench.certify.search import Fleet, search
from bench.certify.verdicts import Case, count_valid, safe_share


@pytest.mark.parametrize("latencies", [1, 2])
def test_verdicts_of_drawn_runs_are_as_often_valid_as_calculated(latencies: int) -> None:
    rng = np.random.default_rng(7)
    for share in (0.002, safe_share(1000, latencies)):
        case = Case(1000, share, latencies)
        runs = 400
        noise = 4 * math.sqrt(case.passes * (1 - case.passes) / runs)
        assert abs(count_valid(rng, case, runs) / runs - case.passes) <= noise


def test_an_endpoint_that_is_safe_at_one_latency_is_less_so_at_both() -> None:
    share = safe_share(6396, 1)
    assert Case(6396, share, 1).passes == pytest.approx(0.99)
    assert Case(6396, share, 2).passes == pytest.approx(0.9801)
    assert safe_share(6396, 2) < share


def test_too_few_queries_have_no_safe_share() -> None:
    with pytest.raises(ValueError, match="never be VALID"):
        safe_share(458, 1)


def test_a_benchmark_fleet_has_its_limit_at_its_knee() -> None:
    rng = np.random.default_rng(7)
    log = Fleet(20.0).log(rng, 20.0, 600.0)
    over = (log.column("first") - log.column("scheduled")) > 450_000_000
    assert over.mean() == pytest.approx(0.01, abs=0.003)
    found = search(Fleet(20.0), 12.0, rng)
    assert found.qps is not None
    assert found.qps == pytest.approx(20.0, rel=0.035)
    assert found.queries <= 0.25 * found.sweep_queries


@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("cc")), reason="needs a C compiler")
def test_the_generator_is_measured_at_a_load_that_it_carries_whole(
    capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    arguments = ["--rate", "30", "--chunks", "20", "--seconds", "2", "--port", str(free_port)]
    assert generator.main(arguments) == 0
    told = capsys.readouterr().out
    assert "CPU per chunk" in told
    assert "per query beside its chunks" in told
