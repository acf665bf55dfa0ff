"""What is told of a run: attainment, progress, the report, the live charts?"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest import attainment, certify, plan, plots, report, results
from loadtest.live import Live
from loadtest.options import RunOptions
from loadtest.progress import Terminal, standing
from loadtest.records import RECORD, Log, Outcome, Query
from loadtest.results import Outcomes
from loadtest.rules import Mode, Rules
from loadtest.store import Errors

MS = 1_000_000
NS = 1_000_000_000
RULES = Rules(Mode.SERVER, ttft_ns=450 * MS, tpot_ns=40 * MS)


def made(count: int, *, gap_s: float = 0.5) -> Log:
    scheduled = (np.arange(count) * gap_s * NS).astype(np.int64)
    first = scheduled + 100 * MS
    return Log.made(scheduled, first, first + 1000 * MS, np.full(count, 51))


def outcomes(log: Log, state: str = "finished", **options: Any) -> Outcomes:
    options = {"target_qps": 2.0, "duration": 300.0, "samples": 50} | options
    made_plan = plan.make(RunOptions.of(options))
    status = {"state": state, "errors": {"refused: busy": 3}, "costs": []}
    manifest = {"base_url": "http://gateway/v1", "reported": {"/version": {"version": "<1>"}}}
    return certify.assess(made_plan, log, status, manifest)


def test_a_record_survives_packing() -> None:
    query = Query(7, 3, 10, 11, 12, 13, 5, 4, 9, 200, Outcome.SHORT, 2, 300, 1)
    log = Log.from_bytes(query.pack() + query.pack()[:10])
    assert len(log) == 1
    assert log.rows[0].tolist() == (7, 3, 10, 11, 12, 13, 5, 4, 9, 200, 3, 2, 300, 1)


def test_records_are_put_in_the_order_of_the_schedule() -> None:
    packed = b"".join(Query(position, 0, 0).pack() for position in (2, 0, 1, 0))
    assert Log.from_bytes(packed).column("position").tolist() == [0, 1, 2]


def test_the_worst_minute_is_found_wherever_it_lies() -> None:
    log = made(1200)
    log.rows["outcome"][500:530] = Outcome.REFUSED
    found = attainment.measure(log, RULES, offered=1200, window_s=600)
    assert found.worst_minute is not None
    assert found.worst_minute.attained == 90
    assert 250 - 60 <= found.worst_minute.start_s <= 250
    assert found.overall.attainment == pytest.approx(1170 / 1200)
    assert found.overall.goodput_per_s == pytest.approx(1170 / 600)


def test_what_was_offered_and_never_recorded_is_a_miss() -> None:
    found = attainment.measure(made(50), RULES, offered=100, window_s=25)
    assert found.overall.attainment == 0.5


def test_classes_may_have_limits_of_their_own() -> None:
    log = made(10)
    log.rows["group"][5:] = 1
    log.rows["first"][5:] += 600 * MS
    log.rows["done"][5:] += 600 * MS
    names = ("interactive", "offline")
    strict = attainment.measure(log, RULES, offered=10, window_s=1, groups=names)
    assert strict.by_group["offline"].attainment == 0
    own = {"offline": Rules(Mode.SERVER, ttft_ns=9000 * MS)}
    loose = attainment.measure(log, RULES, offered=10, window_s=1, groups=names, group_rules=own)
    assert loose.by_group["offline"].attainment == 1
    assert loose.overall.attainment == 1


@pytest.mark.parametrize(
    ("count", "late", "course"),
    [
        (0, 0, "running"),
        (100, 0, "open (0 of"),
        (590, 0, "on course for VALID"),
        (590, 30, "INVALID: 30 over the limit"),
    ],
)
def test_progress_says_where_the_verdict_is_heading(count: int, late: int, course: str) -> None:
    made_plan = plan.make(RunOptions(target_qps=2, duration=300, samples=50))
    log = made(count)
    log.rows["first"][:late] += 2000 * MS
    log.rows["done"][:late] += 2000 * MS
    line = standing(log, made_plan, 65).line()
    assert course in line
    assert line.startswith("0:01:05 of 0:0")
    assert f"served {count}" in line


def test_progress_says_when_a_run_is_too_short_for_any_verdict() -> None:
    made_plan = plan.make(RunOptions(target_qps=2, duration=30, samples=50))
    assert "too few queries for a verdict" in standing(made(5), made_plan, 9).line()


def test_progress_is_a_line_now_and_then_where_nothing_can_be_rewritten() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    for _ in range(5):
        terminal.show("one")
    terminal.tell("two")
    assert stream.getvalue() == "one\ntwo\n"
    Terminal(stream, quiet=True).tell("three")
    assert "three" not in stream.getvalue()


def test_the_report_tells_everything_in_one_page(tmp_path: Path) -> None:
    log = made(600)
    log.rows["outcome"][7] = Outcome.REFUSED
    found = outcomes(log)
    path = report.write(tmp_path, found)
    text = path.read_text()
    assert "INVALID" in text
    assert "1 refused" in text
    assert "Not an MLPerf result" in text
    assert "worst minute" in text
    assert "limit 2000 ms" in text
    assert "&#34;&lt;1&gt;&#34;" in text, "what an endpoint says of itself is escaped"
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "–"), (0.0, "0.00"), (449.974, "449.97"), (2000.04, "2,000.0"), (599_999.6, "600,000")],
)
def test_a_latency_in_the_report_is_no_wider_than_its_column(
    value: float | None, told: str
) -> None:
    assert report.milliseconds(value) == told


def test_an_incomplete_run_is_reported_as_such() -> None:
    assert outcomes(made(40), "failed").judgement.verdict == "INCOMPLETE"
    text = report.render(outcomes(made(40), "interrupted"))
    assert "INCOMPLETE" in text
    assert "they are no verdict" in text


def test_a_run_without_a_single_record_has_a_report() -> None:
    found = outcomes(made(0), "interrupted")
    assert plots.all_of(found) == []
    assert "INCOMPLETE" in report.render(found)
    assert json.dumps(results.summary(found))


def test_a_video_run_is_reported_by_latency(tmp_path: Path) -> None:
    starts = np.arange(100) * 100 * MS
    log = Log.made(starts, np.full(100, -1), starts + 90 * MS, np.zeros(100, dtype=np.int64))
    found = outcomes(
        log, model="wan-2.2-t2v-a14b", scenario="single_stream", duration=5.0, samples=None
    )
    assert found.judgement.verdict == "VALID"
    text = report.render(found)
    assert "Early-stopping estimate: 90.000 ms" in text
    assert "Time to first token" not in text


def test_live_charts_get_a_point_a_second() -> None:
    live = Live()
    log = made(40)
    live.add(log.rows.tobytes())
    points = live.points()
    assert [point["t"] for point in points] == list(range(1, 19))
    assert points[5]["ttft_p50"] == 100
    assert points[5]["tpot_p99"] == 20
    assert points[5]["queries"] == 2
    live.add(np.zeros(0, dtype=RECORD).tobytes())
    live.clear()
    assert live.points() == []


def test_live_charts_bear_a_second_without_answers() -> None:
    live = Live()
    log = made(10)
    log.rows["outcome"] = Outcome.FAILED
    live.add(log.rows.tobytes())
    assert live.points()[0]["ttft_p50"] is None


def test_errors_that_differ_in_a_time_alone_are_one_kind() -> None:
    errors = Errors()
    for seconds in range(5, 9):
        errors.add(f"refused: The model is busy. Try again in {seconds} s.")
    errors.add("refused: status 503")
    assert errors.counts == {
        "refused: The model is busy. Try again in N s.": 4,
        "refused: status 503": 1,
    }
