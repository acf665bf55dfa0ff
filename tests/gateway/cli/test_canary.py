"""`sluice canary`, and `sluice replica sglang` before an engine that talks nonsense."""

import asyncio
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from backends.registry import Registry
from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from gateway.cli.main import main

FILE = "model: m\nquestions: [{ask: 'What is 6 times 7?', expect: ['42']}]\n"
RIGHT = (("6 times 7", "It is 42."),)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(("answers", "status"), [(RIGHT, 0), ((), 1)])
async def test_the_status_says_whether_a_replica_passes(
    file: str,
    answers: tuple[tuple[str, str], ...],
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = SimulatedSettings(model="m", answers=answers, mean_output_tokens=4)
    async with serve_replicas(settings) as (engine,):
        words = ["canary", "--replica", engine.url, "--model", "m", "--canary", file]
        assert await asyncio.to_thread(main, words) == status
    told = capsys.readouterr().err
    assert f"{0 if status else 2} of 2 canary answers are right, 2 are needed" in told
    assert ("expected: 42" in told) is bool(status)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "nobody-s"), "no canary is known for 'nobody-s'"),
        (("--model", "m", "--canary", "/no/file"), "--canary: /no/file"),
    ],
)
def test_without_questions_nothing_is_asked(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["canary", "--replica", "http://127.0.0.1:1", *words]) == 2
    assert told in capsys.readouterr().err


def is_there(ready_file: Path | None) -> bool:
    return ready_file is None or ready_file.exists()


async def replica(*words: str, ready_file: Path | None = None) -> tuple[int | None, str]:
    """Run `sluice replica sglang` until it ends or is in service; give its status and words."""
    more = () if ready_file is None else ("--ready-file", str(ready_file))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "replica", "sglang", "--drain-s", "0"),
        *(*words, *more),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    told = ""
    async with asyncio.timeout(60):
        async for line in process.stderr:
            told += line.decode()
            if b"in service" in line:
                assert is_there(ready_file)
                process.terminate()
        return await process.wait(), told


async def test_an_engine_that_answers_wrongly_gets_no_lease(
    file: str, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    registry = Registry(redis)
    async with serve_replicas(SimulatedSettings(model="m", mean_output_tokens=4)) as (engine,):
        where = ("--redis-url", redis_url, "--data-dir", str(tmp_path / "data"))
        common = ("--model", "m", "--url", engine.url, *where)
        (tmp_path / "in-service").touch()  # of one that was killed
        status, told = await replica(*common, "--canary", file, ready_file=tmp_path / "in-service")
        assert not (tmp_path / "in-service").exists()
        assert status == 1
        assert f"m at {engine.url} is not registered: 0 of 2 canary answers" in told
        await registry.refresh()
        assert not registry.fleet.pools
        # A model without a canary, and one whose operator wants none, is taken as it is.
        for words in ((), ("--canary", "off")):
            status, told = await replica(*common, *words, ready_file=tmp_path / "in-service")
            assert (status, "in service" in told) == (0, True)
            assert not (tmp_path / "in-service").exists()


def test_a_canary_that_is_none_is_told_before_anything_starts(
    tmp_path: Path, redis_url: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model: m\n")
    words = ["--model", "m", "--url", "http://127.0.0.1:1", "--canary", str(path)]
    assert main(["replica", "sglang", *words, "--redis-url", redis_url]) == 2
