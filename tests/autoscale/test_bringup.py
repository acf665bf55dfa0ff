"""Does a new replica get its canary, its law and its limits, in this order?"""

import asyncio
import json
from pathlib import Path

import pytest

from autoscale.bringup import limits, proposal
from backends.canary import shipped
from backends.capacity import Mix, StepLaw
from backends.hardware import profile
from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from gateway.cli.main import main

MODEL = "llama2-70b"


async def brought_up(url: str, out: Path, *words: str) -> int:
    """Run `sluice calibrate` on a replica, briefly."""
    arguments = ("calibrate", "--replica", url, "--model", MODEL, "--most-running", "1")
    return await asyncio.to_thread(main, [*arguments, "--out", str(out), *words])


async def test_a_replica_that_knows_its_answers_gets_a_profile_with_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = shipped(MODEL)
    assert canary is not None
    answers = tuple((q.ask, f"It is {q.expect[0]}.") for q in canary.questions)
    async with serve_replicas(SimulatedSettings(model=MODEL, answers=answers)) as (engine,):
        assert await brought_up(engine.url, tmp_path / "out.json") == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["canary"] == "26/26"
    assert set(written["limits"]) == {"interactive", "server"}
    told = capsys.readouterr().err
    assert told.index("canary answers are right") < told.index("calls at once")


async def test_a_replica_that_answers_wrongly_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SimulatedSettings(model=MODEL, mean_output_tokens=4)
    async with serve_replicas(settings) as (engine,):
        assert await brought_up(engine.url, tmp_path / "out.json") == 1
        assert not (tmp_path / "out.json").exists()
        assert "not worth measuring" in capsys.readouterr().err
        assert await brought_up(engine.url, tmp_path / "out.json", "--canary", "off") == 0
    assert json.loads((tmp_path / "out.json").read_text())["canary"] is None


def test_limits_are_what_the_law_allows_and_tighter_classes_carry_less() -> None:
    known = profile(MODEL, "mi355x")
    found = limits(known.law, known.mix, MODEL)
    assert 0 < found["interactive"].running < found["server"].running
    told = proposal(found, known.mix)
    most = found["server"].running
    assert f"--max-running-requests {int(most) + 1} or more" in told


def test_a_class_that_cannot_be_kept_is_said() -> None:
    found = limits(StepLaw(0.5, 1e-5, 1e-9), Mix(100, 100), MODEL)
    assert "not even one call keeps its limits" in proposal(found, Mix(100, 100))
    assert "--max-running-requests" not in proposal(found, Mix(100, 100))
