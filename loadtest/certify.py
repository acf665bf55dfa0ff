"""How does one run go from options to a verdict and a directory of evidence?"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from loadtest import attainment, launch, manifest, results
from loadtest.judgement import Judgement, Verdict
from loadtest.launch import Generators
from loadtest.manifest import Admin
from loadtest.plan import Plan
from loadtest.progress import Terminal, standing
from loadtest.records import Log
from loadtest.results import Outcomes
from loadtest.store import RECORDS, read_status
from loadtest.verdict import judge

_POLL_S = 0.2
_DRAIN_S = 30.0
_REACH_S = 10.0

Clear = Callable[[Log, float], bool]


class CannotJudge(RuntimeError):
    """The run did not happen: the endpoint, the options or a generator is at fault."""


class Interrupted:
    """Whether somebody asked to stop; `wait` returns early when they do."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep, unless asked to stop."""
        return self._event.wait(seconds)


@contextmanager
def interrupts() -> Iterator[Interrupted]:
    """Turn SIGINT and SIGTERM into a flag while the block lasts; outside the main thread do
    nothing.
    """
    asked = Interrupted()

    def heard(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {name: signal.signal(name, heard) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for name, old in before.items():
            signal.signal(name, old)


def reach(base_url: str) -> None:
    """Raise CannotJudge where nobody listens: a run would count failures for hours."""
    parts = _parts(base_url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_REACH_S).close()
    except OSError as error:
        raise CannotJudge(f"{base_url} cannot be reached: {error}") from error


def _parts(base_url: str) -> SplitResult:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CannotJudge(f"not an http(s) URL: {base_url!r}")
    return parts


def run(
    plan: Plan,
    base_url: str,
    out: Path,
    generators: Generators,
    terminal: Terminal,
    asked: Interrupted,
    *,
    clear: Clear | None = None,
) -> tuple[Log, dict[str, Any]]:
    """Generate the plan's load; give what was recorded and the run's status.

    `clear(log, elapsed_s)` may end the run early. Raises CannotJudge when no load was generated.
    """
    _parts(base_url)
    running = launch.start(plan.options, base_url, out, generators)
    stopped = ""
    try:
        while not running.over:
            status = read_status(out)
            log = Log.read(out / RECORDS)
            elapsed_s = time.time() - status.get("start_at", time.time())
            if status.get("state") == "running":
                terminal.show(standing(log, plan, elapsed_s).line())
            if asked and not stopped:
                stopped = "interrupted"
                terminal.tell("interrupted: keeping what there is")
                running.stop()
            elif clear is not None and not stopped and clear(log, elapsed_s):
                stopped = "clear"
                running.stop()
            if stopped and not running.wait(_DRAIN_S):
                running.kill()
            asked.wait(_POLL_S) if not asked else time.sleep(0)
    finally:
        running.kill()
    status = read_status(out)
    if stopped:
        status["state"] = stopped
    if status.get("state") == "failed" or "start_at" not in status:
        why = status.get("why") or _last_line(out / launch.LOG)
        if not (out / RECORDS).exists() or not (out / RECORDS).stat().st_size:
            raise CannotJudge(f"no load was generated: {why}")
    return Log.read(out / RECORDS), status


def certify(
    plan: Plan,
    base_url: str,
    out: Path,
    generators: Generators,
    terminal: Terminal,
    asked: Interrupted,
    *,
    smoke: bool = False,
    admin: Admin | None = None,
    clear: Clear | None = None,
) -> Outcomes:
    """Run, judge and write everything but the report; a run that `clear` ends is INCOMPLETE."""
    results.clear(out)
    found = manifest.collect(
        base_url, api_key=plan.options.api_key, admin=admin, generators=generators.count
    )
    if plan.scenario.model in manifest.simulated(found):
        told = (*plan.deviations, "replicas of the model are simulated")
        plan = replace(plan, deviations=told)
    log, status = run(plan, base_url, out, generators, terminal, asked, clear=clear)
    outcomes = assess(plan, log, status, found, smoke=smoke)
    results.write(out, outcomes)
    (out / RECORDS).unlink(missing_ok=True)  # the detail holds them now
    return outcomes


def assess(
    plan: Plan, log: Log, status: dict[str, Any], found: dict[str, Any], *, smoke: bool = False
) -> Outcomes:
    """Judge what was recorded."""
    offered = len(log) if plan.schedule.closed_loop else len(plan.schedule)
    judgement = judge(
        log, plan.rules, offered=offered, interrupted=status.get("state") != "finished"
    )
    if smoke and judgement.verdict is not Verdict.INCOMPLETE:
        judgement = replace(judgement, verdict=Verdict.SMOKE)
    measured = attainment.measure(
        log,
        plan.rules,
        offered=offered,
        window_s=judgement.window_s,
        groups=plan.dataset.groups,
        tenants=plan.dataset.tenants,
        group_rules=plan.scenario.class_rules,
    )
    return Outcomes(plan, log, judgement, measured, found, status)


def smoke_failures(judgement: Judgement) -> list[str]:
    """Tell why a smoke run failed: only unanswered queries count, not limits or lengths."""
    return [r.text for r in judgement.reasons if r.what in ("unanswered", "missing")]


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "the generator wrote nothing"
