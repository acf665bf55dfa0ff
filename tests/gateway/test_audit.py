"""What is kept of what operators change, and what is not?"""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from backends.clock import SystemClock
from gateway.audit import Audit, AuditFailed
from gateway.cli.main import main
from gateway.listeners import Bound
from gateway.server import serve
from gateway.settings import Settings
from tests.gateway.api.test_admin import KEY, client_of, services_on

HIDDEN = "the-key-of-an-engine"


def lines(path: Path) -> list[dict[str, Any]]:
    """Read the file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_change_is_a_line_and_no_secret_is_in_it(redis: Redis, tmp_path: Path) -> None:
    path = tmp_path / "of/changes.jsonl"
    settings = Settings.model_validate({"admin_key": KEY, "audit_file": path, "models": {"m": {}}})
    async with client_of(services_on(redis, settings)) as admin:
        key = (await admin.post("/admin/keys", json={"tenant": "t"})).json()
        new = {"model": "m", "url": "http://n", "api_key": HIDDEN}
        name = (await admin.post("/admin/replicas", json=new)).json()["id"]
        await admin.post(f"/admin/replicas/{name}/drain")
        await admin.delete(f"/admin/keys/{key['id']}")
        await admin.get("/admin/keys")  # changes nothing
        assert (await admin.delete("/admin/replicas/unknown")).status_code == 404
    found = lines(path)
    assert [each["action"] for each in found] == [
        *("key.create", "replica.add", "replica.drain", "key.revoke")
    ]
    assert all(each["actor"] == "admin@127.0.0.1" and each["at"] > 0 for each in found)
    assert (found[0]["key_id"], found[1]["url"]) == (key["id"], "http://n")
    text = path.read_text()
    assert not [secret for secret in (key["key"], HIDDEN, KEY) if secret in text]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "changes"
    audit = Audit(path, SystemClock())
    await audit.write("one", "me")
    path.rename(tmp_path / "changes.1")
    await audit.write("two", "me")
    assert [each["action"] for each in lines(path)] == ["two"]


async def test_many_writers_break_no_line(tmp_path: Path) -> None:
    audits = [Audit(tmp_path / "changes", SystemClock()) for _ in range(8)]
    texts = ["x" * 3000 + str(n) for n in range(40)]
    await asyncio.gather(
        *(audits[n % 8].write("a", "me", text=text) for n, text in enumerate(texts))
    )
    assert sorted(each["text"] for each in lines(tmp_path / "changes")) == sorted(texts)


async def test_what_cannot_be_kept_is_told_and_the_change_stands(tmp_path: Path) -> None:
    audit = Audit(tmp_path, SystemClock())  # a directory
    with capture_logs() as logs:
        await audit.write("replica.drain", "me")
    assert [each["event"] for each in logs] == ["admin_write", "audit_not_written"]
    with pytest.raises(AuditFailed, match="audit_file"):
        await audit.check()


async def test_a_gateway_does_not_start_without_its_file(redis_url: str, tmp_path: Path) -> None:
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "audit_file": tmp_path})
    with pytest.raises(AuditFailed):
        await serve(settings, redis_url=redis_url, stop=asyncio.Event())


async def test_behind_a_trusted_proxy_the_line_names_who_asked(
    redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "changes"
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    settings = {"port": 0, "admin_port": 0, "admin_key": KEY, "audit_file": path}
    settings["forwarded"] = {"trusted": ["127.0.0.1"]}
    serving = asyncio.create_task(
        serve(
            Settings.model_validate(settings),
            redis_url=redis_url,
            on_ready=bound.set_result,
            stop=stop,
        )
    )
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        url = f"{(await bound).admin_url}/admin/autoscale/pause"
        headers = {"authorization": f"Bearer {KEY}", "x-forwarded-for": "127.0.0.1, 192.0.2.9"}
        async with session.post(url, headers=headers) as answer:
            assert answer.status == 200
    stop.set()
    assert await serving == 0
    assert [each["actor"] for each in lines(path)] == ["admin@192.0.2.9"]


def test_keys_that_are_made_by_the_command_are_kept_too(
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "changes"
    monkeypatch.setenv("SLUICE_AUDIT_FILE", str(path))
    assert main(["keys", "create", "--redis-url", redis_url, "--json"]) == 0
    key = json.loads(capsys.readouterr().out)
    assert main(["keys", "revoke", key["id"], "--redis-url", redis_url]) == 0
    assert [each["action"] for each in lines(path)] == ["key.create", "key.revoke"]
    assert key["key"] not in path.read_text()
