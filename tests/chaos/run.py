"""What is left after everything has been killed at random: nothing lost, nothing ended twice.

Store, gateways and workers are real processes; replicas are simulated and count what they are asked
to make. The table at the end is what `make test-chaos` prints.
"""

import asyncio
import json
import os
import random
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from backends.clock import SystemClock
from backends.simulated.diffusion import DiffusionReplica
from backends.simulated.diffusion_server import serve_diffusion
from backends.simulated.diffusion_settings import DiffusionSettings
from backends.store import connect, open_store
from gateway.artifacts import LocalArtifacts, NoArtifact
from gateway.files import Files
from gateway.housekeeping import Housekeeper
from gateway.jobs.model import JobStatus
from gateway.jobs.store import JobStore
from tests.chaos.customers import Customers
from tests.chaos.processes import Mortal, StoreProcess
from tests.chaos.terror import Terror, endure
from tests.workers import VIDEO_MODEL

SLUICE = (sys.executable, "-m", "gateway.cli")
LAST_LOOK_S = 30.0


@dataclass(frozen=True)
class Plan:
    """How much is to be done and how much is to go wrong; times in seconds.

    Somebody is killed until every job has been accepted and `until_ended` of them have ended, or
    for `kills_within_s`; then the rest has `end_within_s`. A run lasts these and `start_within_s`
    at the most, and a minute for the last look and the ends of its processes.
    """

    jobs: int = 10_000
    gateways: int = 2
    workers: int = 4
    replicas: int = 8
    at_once: int = 48
    kill_every_s: float = 2.5
    least_age_s: float = 2.0
    start_within_s: float = 120.0
    until_ended: float = 0.95
    kills_within_s: float = 1500.0
    end_within_s: float = 600.0
    lease_s: float = 4.0
    seed: int = 1


@dataclass(frozen=True)
class Found:
    """What came of it. All of the first five must be zero.

    `lost` are those that were accepted and whose end nobody was told, for whatever reason; `open`
    are those of them that had not ended when the time was over. `accepted_under_kills` and
    `ended_under_kills` tell how many had been when the killing was over, `kills_from_s` and
    `kills_to_s` when the first and the last of it was, in seconds of the run.
    """

    not_accepted: int
    lost: int
    ended_twice: int
    artifacts_without_record: int
    records_without_artifact: int
    open: int
    accepted: int
    accepted_under_kills: int
    ended_under_kills: int
    completed: int
    failed: int
    made_twice: int
    worker_kills: int
    gateway_kills: int
    store_kills: int
    partitions: int
    kills_from_s: float
    kills_to_s: float
    seconds: float
    contradictions: tuple[str, ...] = ()

    @property
    def broken(self) -> int:
        """How many promises were not kept."""
        gone = self.not_accepted + self.lost + self.ended_twice
        return gone + self.artifacts_without_record + self.records_without_artifact

    @property
    def share_made_twice(self) -> float:
        """GPU work beyond one video for each."""
        return self.made_twice / max(self.accepted, 1)

    def table(self) -> str:
        """Give it for people."""
        rows = {**asdict(self), "share_made_twice": f"{100 * self.share_made_twice:.2f} %"}
        return "\n".join(f"{name:26} {value}" for name, value in rows.items())


async def run(plan: Plan, directory: Path) -> Found:
    """Do it all in a directory of its own."""
    began = time.monotonic()
    how = DiffusionSettings(model=VIDEO_MODEL, replicas=plan.replicas, fixed_s=0.02, jitter=0.2)
    store_dir, data_dir = directory / "store", directory / "data"
    async with open_store(None, store_dir) as store, serve_diffusion(how) as replicas:
        config = _config(plan, directory, replicas)
        env = _environ(store.url)
        gateways, workers = _mortals(plan, directory, config, data_dir, env)
        urls = [f"http://127.0.0.1:{each.port}" for each in gateways]
        mortals = [*gateways, *workers]
        for each in mortals:
            each.start()
        terror = Terror(
            workers, gateways, StoreProcess(store_dir),
            every_s=plan.kill_every_s, least_age_s=plan.least_age_s, seed=plan.seed,
        )  # fmt: skip
        customers = Customers(urls, plan.jobs, plan.at_once, plan.seed)
        try:
            await _until_one_answers(urls, plan.start_within_s)
            await endure(
                customers.see_all_through(),
                terror.reign(lambda: customers.are_through(plan.until_ended)),
                terror_within_s=plan.kills_within_s,
                peace_within_s=plan.end_within_s,
                at_peace=customers.note_peace,
            )
            await customers.look_again(LAST_LOOK_S)
        finally:
            await asyncio.gather(*(each.end() for each in mortals))
        redis = connect(store.url)
        try:
            jobs = JobStore(redis)
            artifacts = LocalArtifacts(data_dir / "artifacts")
            house = Housekeeper(redis, jobs, Files(redis, artifacts), artifacts, SystemClock())
            await house.sweep_orphans(before=time.time() + 1)
            counts = await _audit(customers, jobs, artifacts)
        finally:
            await redis.aclose()
    made = sum(each.created for each in replicas)
    first_s, last_s = terror.span_s(began)
    return Found(
        not_accepted=plan.jobs - counts["accepted"],
        accepted_under_kills=customers.told.accepted_under_kills,
        ended_under_kills=customers.told.ended_under_kills,
        **counts,
        made_twice=made - counts["completed"],
        worker_kills=sum(each.deaths for each in workers),
        gateway_kills=sum(each.deaths for each in gateways),
        store_kills=terror.store.kills,
        partitions=terror.store.pauses,
        kills_from_s=first_s,
        kills_to_s=last_s,
        seconds=round(time.monotonic() - began, 1),
        contradictions=tuple(customers.told.contradictions[:10]),
    )


async def _audit(customers: Customers, jobs: JobStore, artifacts: LocalArtifacts) -> dict[str, int]:
    """Compare what callers were told with what the store and the directory hold."""
    told = customers.told
    found = {job.id: job for job in await jobs.find_all(told.accepted.values())}
    spoken_of, missing = set(), 0
    for job in found.values():
        name = str(job.result.get("artifact", ""))
        if job.status == "completed":
            spoken_of.add(name)
            try:
                missing += await artifacts.size(name) != job.result["bytes"]
            except NoArtifact:
                missing += 1
    lying = await artifacts.list_old("videos", time.time() + 1)
    statuses = [job.status for job in found.values()]
    return {
        "lost": sum(1 for id_ in told.accepted.values() if id_ not in told.ended)
        + len(told.accepted)
        - len(found),
        "ended_twice": len(told.contradictions) + sum(1 for job in found.values() if job.ends != 1),
        "artifacts_without_record": sum(1 for name in lying if name not in spoken_of),
        "records_without_artifact": missing,
        "open": sum(1 for job in found.values() if not job.has_ended),
        "accepted": len(told.accepted),
        "completed": statuses.count(JobStatus.COMPLETED),
        "failed": statuses.count(JobStatus.FAILED),
    }


def _config(plan: Plan, directory: Path, replicas: tuple[DiffusionReplica, ...]) -> Path:
    """Write the settings of gateways and workers (JSON is YAML, too)."""
    path = directory / "sluice.yaml"
    settings = {
        "no_auth": True,
        "docs": False,
        "jobs": {
            "lease_s": plan.lease_s,
            "attempts": 10,
            "losses": 100,
            "most_waiting": plan.jobs + 1,
        },
        "models": {
            VIDEO_MODEL: {
                "engine": "diffusion",
                "replicas": [{"url": each.url} for each in replicas],
            }
        },
        "telemetry": {"log_level": "warning"},
    }
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def _mortals(
    plan: Plan, directory: Path, config: Path, data_dir: Path, env: dict[str, str]
) -> tuple[list[Mortal], list[Mortal]]:
    """Describe gateways and workers, on ports that are free now."""
    port = _quiet_ports(2 * plan.gateways + plan.workers)
    common = ("--config", str(config), "--data-dir", str(data_dir))
    gateways, workers = [], []
    words: tuple[str, ...]
    for n in range(plan.gateways):
        places = ("--port", str(port), "--admin-port", str(port + 1))
        log = directory / f"gateway-{n}.log"
        words = ("gateway", *common, *places)
        gateways.append(Mortal(f"gateway-{n}", (*SLUICE, *words), log, env, port))
        port += 2
    for n in range(plan.workers):
        log = directory / f"worker-{n}.log"
        words = ("worker", *common, "--port", str(port))
        workers.append(Mortal(f"worker-{n}", (*SLUICE, *words), log, env, port))
        port += 1
    return gateways, workers


def _quiet_ports(count: int) -> int:
    """Find ports in a row below those that the kernel gives to outgoing connections; the first.

    The processes die and take their ports again, which nobody must have taken meanwhile.
    """
    chance = random.Random()
    while True:
        first = chance.randrange(12_000, 30_000)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


def _environ(store_url: str) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    return {**ours, "REDIS_URL": store_url}


async def _until_one_answers(urls: list[str], within_s: float) -> None:
    async with asyncio.timeout(within_s), aiohttp.ClientSession() as session:
        while True:
            for url in urls:
                try:
                    async with session.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
            await asyncio.sleep(0.2)
