"""The `sluice` command, in this process; `sluice up` has its own tests in tests/system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.data_dir import DataDir, Ready, read_secret, write_private, write_ready
from gateway.cli.failure import CommandFailed
from gateway.cli.keys import expiry, table
from gateway.cli.main import SUBJECTS, main
from gateway.cli.replica_service import free_ports
from gateway.keys import id_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("SLUICE_") or name in {"REDIS_URL", "REDIS_URL_FILE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


def ready(**changes: object) -> Ready:
    values: dict[str, object] = {
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "k",
        "admin_url": "http://127.0.0.1:1",
        "admin_key": "a",
        "models": ("m",),
        "redis_url": "redis://127.0.0.1:1/0",
        "metrics_url": "http://127.0.0.1:1/metrics",
        "pid": os.getpid(),
    }
    return Ready(**{**values, **changes})  # type: ignore[arg-type]


def test_help_names_every_subject(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SUBJECTS)


def test_without_a_subject_all_are_shown_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in SUBJECTS)


def test_the_version_is_told_in_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["version"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first == second


def test_an_unknown_subject_is_told_with_status_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["frobnicate"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], ["pydantic", "fastapi", "redis", "aiohttp", "locust", "yaml", "asyncio"]),
        (["version"], ["pydantic", "fastapi", "redis", "aiohttp", "locust"]),
        (["keys", "--help"], ["fastapi", "starlette", "locust", "uvicorn"]),
        (["check"], ["fastapi", "starlette", "locust", "uvicorn"]),
    ],
)
def test_a_command_imports_no_more_than_it_needs(words: list[str], absent: list[str]) -> None:
    code = (
        "import sys\nfrom gateway.cli.main import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {absent!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s != "certify"])
def test_every_subject_has_help(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([subject, "--help"])
    assert caught.value.code == 0
    assert "usage: sluice" in capsys.readouterr().out


def test_a_missing_extra_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'locust'", name="locust")

    monkeypatch.setattr("importlib.import_module", absent)
    assert main(["certify"]) == 2
    assert "pip install 'sluice[loadtest]'" in capsys.readouterr().err


def test_check_prints_the_settings_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("port: 81\nadmin_key: ${KEY}\n")
    monkeypatch.setenv("KEY", "hidden")
    assert main(["check", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "port: 81" in shown
    assert "hidden" not in shown


def test_check_tells_every_fault_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("prot: 81\nadmin_key: ${KEY}\n")
    assert main(["check", "--config", str(config)]) == 2
    assert f"error: {config}:2: the environment variable KEY is not set" in capsys.readouterr().err
    config.write_text("prot: 81\nhost: [1]\n")
    assert main(["check", "--config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"error: {config}:") for line in lines)


def test_keys_are_created_listed_and_revoked(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--redis-url", redis_url]
    words = ["--name", "Ada", "--models", "a,b", "--classes", "server", "--expires", "30d"]
    assert main(["keys", "create", *words, *store]) == 0
    key = capsys.readouterr().out.strip()
    key_id = id_of(key)
    assert key_id is not None
    assert main(["keys", "list", *store]) == 0
    shown = capsys.readouterr().out
    assert key_id in shown
    assert key not in shown
    assert "a,b" in shown
    assert "until" in shown
    assert main(["keys", "revoke", key_id, *store]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--json", *store]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["id"] == key_id
    assert record["revoked_at"] is not None
    assert main(["keys", "revoke", "nobody00", *store]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "gold"], "unknown class 'gold'; allowed: interactive, server, offline"),
        (["--classes", "server", "--default-class", "offline"], "must be one of --classes"),
        (["--expires", "soon"], "--expires: found 'soon'; allowed: 30d"),
        (["--expires", "2001-01-01"], "is in the past"),
    ],
)
def test_a_key_that_cannot_be_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", *words, "--redis-url", "redis://127.0.0.1:1"]) == 2
    assert message in capsys.readouterr().err


def test_without_a_store_the_ways_to_name_one_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["keys", "list"]) == 2
    assert "REDIS_URL" in capsys.readouterr().err
    assert main(["keys", "list", "--redis-url", "redis://127.0.0.1:1"]) == 1
    assert "the store does not answer" in capsys.readouterr().err


def test_the_store_of_a_running_up_is_found(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataDir(tmp_path / "data")
    data.make()
    write_ready(data.running, ready(redis_url=redis_url))
    assert main(["keys", "create", "--data-dir", str(data.path)]) == 0
    assert capsys.readouterr().out.startswith("sk-sluice-")


def test_an_admin_api_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["replicas", "list"]) == 2
    assert "SLUICE_ADMIN_KEY" in capsys.readouterr().err
    monkeypatch.setenv("SLUICE_ADMIN_KEY", "k")
    assert main(["replicas", "list", "--admin-url", "http://127.0.0.1:1"]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert main(["replicas", "list", "--admin-url", "file:///etc/passwd"]) == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90m", 1e9 + 5400),
        ("2h", 1e9 + 7200),
        ("1d", 1e9 + 86400),
        ("1w", 1e9 + 604800),
        ("2027-01-31", 1801353600.0),
        ("2027-01-31T01:00+01:00", 1801353600.0),
    ],
)
def test_an_expiry_is_a_span_or_an_instant(text: str, at: float) -> None:
    assert expiry(text, now=1e9) == at


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([("A", "B"), ("long", "x")]) == "A     B\nlong  x"


def test_secrets_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, "secret\n")
    assert read_secret(path) == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["key"]
    assert read_secret(tmp_path / "none") is None


def test_the_admin_key_is_made_once(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    data.make()
    assert data.ensure_admin_key() == data.ensure_admin_key()
    assert data.path.stat().st_mode & 0o077 == 0


def test_what_no_longer_runs_is_not_found(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert data.read_running() is None
    write_ready(data.running, ready())
    assert data.read_running() == ready()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    write_ready(data.running, ready(pid=ended.pid))
    assert data.read_running() is None
    data.running.write_text("{}")
    assert data.read_running() is None


def test_free_ports_follow_each_other() -> None:
    first = free_ports("127.0.0.1", 8)
    assert 1024 < first < 65536 - 8
    with pytest.raises(CommandFailed):
        free_ports("127.0.0.1", 70_000)


def test_the_openapi_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    assert "/v1/chat/completions" in json.loads(capsys.readouterr().out)["paths"]


LIGHT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"numpy", "scipy", "aiodocker", "locust"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
from gateway.cli import gateway, replica, setup, up, worker
"""


def test_what_serves_needs_no_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
