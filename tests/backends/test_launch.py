"""Are local servers started, told ready, and ended with everything that they started?"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from backends.fleet import HealthState, Replica
from backends.launch import LaunchFailed, LaunchSpec, launched, running
from backends.registry import Registry
from backends.tenure import serve_replica
from tests.backends.replicas import Behaviour, replica, server
from tests.waiting import eventually

# A server with two children of its own, one of which has left its process group. It is ready after
# the file `slow` is gone, and may be told to ignore SIGTERM.
SERVER = """
import http.server, os, pathlib, signal, subprocess, sys, time

here, port, stubborn = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "stubborn"
nap = [sys.executable, "-c", "import time; time.sleep(600)"]
pids = [subprocess.Popen(nap).pid, subprocess.Popen(nap, start_new_session=True).pid]
(here / "children.part").write_text(" ".join(map(str, pids)))
(here / "children.part").rename(here / "children")

def end(*_):
    print("told to end", flush=True)
    if not stubborn:
        os._exit(7)

signal.signal(signal.SIGTERM, end)

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        slow = (here / "slow").exists()
        self.send_response(404 if self.path != "/ready" else 503 if slow else 200)
        self.end_headers()
    def log_message(self, *_):
        pass

print("starting", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""

OWNER = """
import asyncio, sys
from pathlib import Path
from backends.launch import LaunchSpec, launched

async def main():
    here, port, script = sys.argv[1:]
    argv = [sys.executable, script, here, port, "stubborn"]
    spec = LaunchSpec("server", argv, f"http://127.0.0.1:{port}", Path(here) / "log")
    async with launched(spec) as process:
        print(process.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def spec(here: Path, port: int, mood: str = "gentle", grace_s: float = 20.0) -> LaunchSpec:
    script = here / "server.py"
    script.write_text(SERVER)
    return LaunchSpec(
        name="server",
        argv=[sys.executable, str(script), str(here), str(port), mood],
        url=f"http://127.0.0.1:{port}",
        log_path=here / "logs" / "server.log",
        ready_within_s=60.0,
        stop_grace_s=grace_s,
    )


def family(here: Path, pid: int) -> list[psutil.Process]:
    pids = [pid, *map(int, (here / "children").read_text().split())]
    return [psutil.Process(each) for each in pids]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


async def test_a_server_is_given_when_it_is_ready_and_ended_with_its_children(
    tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "slow").touch()
    told: list[str] = []

    async def speed_up() -> None:
        await eventually(lambda: (tmp_path / "children").exists())
        (tmp_path / "slow").unlink()

    hint = asyncio.create_task(speed_up())
    async with launched(spec(tmp_path, free_port), on_progress=told.append) as process:
        assert hint.done()
        assert process.log_tail() == "starting"
        everyone = family(tmp_path, process.pid)
        assert len(alive(everyone)) == 3
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert process.returncode == 7
    assert not alive(everyone)
    assert "serves after" in told[-1]
    assert process.log_tail() == "starting\ntold to end"


async def test_one_that_will_not_end_is_killed_after_its_grace(
    tmp_path: Path, free_port: int
) -> None:
    async with launched(spec(tmp_path, free_port, "stubborn", grace_s=0.2)) as process:
        everyone = family(tmp_path, process.pid)
    assert process.returncode == 128 + signal.SIGKILL
    assert "told to end" in process.log_tail()
    assert not alive(everyone)


async def test_a_killed_server_is_noticed_and_its_children_ended(
    tmp_path: Path, free_port: int
) -> None:
    async with launched(spec(tmp_path, free_port)) as process:
        everyone = family(tmp_path, process.pid)
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            assert await process.wait() == 128 + signal.SIGKILL
        assert not alive(everyone)


def _owner(*args: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", OWNER, *args]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


async def test_nothing_is_left_when_we_are_killed(tmp_path: Path, free_port: int) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    owner = _owner(str(tmp_path), str(free_port), str(script))
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    everyone = family(tmp_path, pid) + psutil.Process(owner.pid).children(recursive=True)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    await eventually(lambda: not alive(everyone))


async def test_a_killed_warden_takes_its_server_along(tmp_path: Path, free_port: int) -> None:
    async with launched(spec(tmp_path, free_port)) as process:
        everyone = family(tmp_path, process.pid)
        warden = everyone[0].parent()
        assert warden is not None
        warden.kill()
        await eventually(lambda: not alive(everyone[:1]))
        for child in everyone[1:]:
            child.kill()


async def test_a_server_that_ends_before_it_serves_is_told_with_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with pytest.raises(LaunchFailed, match=r"(?s)ended \(3\) before it served.*no such model"):
        async with launched(LaunchSpec("x", argv, "http://127.0.0.1:1", tmp_path / "log")):
            pass


async def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="No such file"):
        async with running(LaunchSpec("x", ["/no/such"], "http://x", tmp_path / "log")):
            pass


async def test_patience_with_a_start_ends(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    spec = LaunchSpec("x", argv, "http://127.0.0.1:1", tmp_path / "log", ready_within_s=0.1)
    with pytest.raises(LaunchFailed, match="did not serve"):
        async with launched(spec):
            pass


# Tenures


async def serving(
    redis_url: str, spec: LaunchSpec | None, replicas: list[Replica], stop: asyncio.Event
) -> "asyncio.Task[None]":
    ready = asyncio.Event()
    serve = serve_replica(
        spec, replicas, redis_url, stop=stop, on_ready=ready.set, drain_within_s=30.0
    )
    task = asyncio.create_task(serve)
    async with asyncio.timeout(60):
        await ready.wait()
    return task


async def test_a_replica_is_leased_drained_and_gone(redis: Redis, redis_url: str) -> None:
    behaviour, stop = Behaviour(running=2), asyncio.Event()
    registry = Registry(redis)
    async with server(behaviour) as url:
        one = replica(url)
        task = await serving(redis_url, None, [one], stop)
        await registry.refresh()
        assert registry.fleet.standing(one.id) is not None
        stop.set()

        async def is_draining() -> bool:
            await registry.refresh()
            standing = registry.fleet.standing(one.id)
            return standing is not None and standing.health.state is HealthState.DRAINING

        await eventually(is_draining)
        await eventually(lambda: "/v1/loads" in behaviour.seen)
        assert not task.done()
        behaviour.running = 0
        async with asyncio.timeout(30):
            await task
        await registry.refresh()
        assert registry.fleet.standing(one.id) is None


async def test_a_started_replica_that_is_removed_ends_its_process(
    redis: Redis, redis_url: str, tmp_path: Path, free_port: int
) -> None:
    one = replica(f"http://127.0.0.1:{free_port}")
    task = await serving(redis_url, spec(tmp_path, free_port), [one], asyncio.Event())
    everyone = [psutil.Process(int(p)) for p in (tmp_path / "children").read_text().split()]
    registry = Registry(redis)
    assert await registry.remove(one.id)
    async with asyncio.timeout(30):
        await task
    assert not alive(everyone)


async def test_the_end_of_its_process_ends_a_lease_at_once(
    redis: Redis, redis_url: str, tmp_path: Path, free_port: int
) -> None:
    one = replica(f"http://127.0.0.1:{free_port}")
    task = await serving(redis_url, spec(tmp_path, free_port), [one], asyncio.Event())
    child = psutil.Process(int((tmp_path / "children").read_text().split()[0]))
    server = child.parent()
    assert server is not None
    server.kill()
    with pytest.raises(LaunchFailed, match="status 137"):
        await task
    registry = Registry(redis)
    await registry.refresh()
    assert registry.fleet.standing(one.id) is None


async def test_a_stop_during_the_start_is_heeded(redis_url: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    spec = LaunchSpec("x", argv, "http://127.0.0.1:1", tmp_path / "log")
    stop = asyncio.Event()
    task = asyncio.create_task(
        serve_replica(spec, [replica(spec.url)], redis_url, stop=stop, on_ready=stop.set)
    )
    await eventually(lambda: (tmp_path / "log").exists())
    stop.set()
    async with asyncio.timeout(30):
        await task
