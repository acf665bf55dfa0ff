"""What do `sluice autoscaler`, `sluice replay` and `sluice plan` do?"""

import argparse
import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from autoscale import config as configuration
from autoscale.actuate.dry import DryActuator
from autoscale.actuate.unit import Actuator
from autoscale.endpoint import serving
from autoscale.explain import told as explained
from autoscale.journal import Journal
from autoscale.loop import Autoscaler
from autoscale.sizing import SCENARIOS, Unreachable, size, told
from backends import measured
from backends.clock import SystemClock
from backends.hardware import Profile, UnknownHardware, known_hardware, known_models
from backends.measured import BadProfile, Profiles
from backends.probe import Prober
from backends.registry import Registry
from backends.slo import Class
from backends.store import connect

Of = TypeVar("Of")


class Failed(Exception):
    """What a command tells and ends with; `status` is its exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


def autoscaler(
    arguments: Sequence[str],
    common: Callable[[argparse.ArgumentParser], None],
    where: Callable[[argparse.Namespace], tuple[str, Mapping[str, Class]]],
) -> int:
    """`run` scales what a file lists; `explain` tells the last decisions.

    `common` adds the options by which `where` finds the store's URL and the classes.
    """
    told = (autoscaler.__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="sluice autoscaler", description=told)
    subjects = parser.add_subparsers(dest="subject", required=True)
    run = subjects.add_parser("run", help="look, decide and act until a signal")
    run.add_argument("--fleet", type=Path, required=True, help="what is to be scaled (YAML)")
    run.add_argument("--dry", action="store_true", help="tell what would be done")
    explain = subjects.add_parser("explain", help="why were there so many?")
    explain.add_argument("--at", type=float, metavar="T", help="Unix seconds; default: now")
    explain.add_argument("--pool", help="a model; default: all")
    explain.add_argument("--count", type=int, default=5)
    explain.add_argument("--json", action="store_true")
    common(run)
    common(explain)
    options = parser.parse_args(arguments)
    store_url, classes = where(options)
    if options.subject == "explain":
        return asyncio.run(_explain(options, store_url))
    try:
        fleet = configuration.read(options.fleet)
    except configuration.BadConfig as error:
        raise Failed(str(error), 2) from error
    return asyncio.run(_run(fleet, classes, store_url, dry=options.dry))


async def _explain(options: argparse.Namespace, store_url: str) -> int:
    store = connect(store_url)
    try:
        found = await Journal(store).last(at=options.at, pool=options.pool, count=options.count)
    finally:
        await store.aclose()
    if options.json:
        print(json.dumps(list(found), indent=1))
    else:
        print("\n\n".join(explained(each) for each in found) or "No decision was taken yet.")
    return 0


async def _run(
    fleet: configuration.FleetConfig, classes: Mapping[str, Class], store_url: str, *, dry: bool
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        store = connect(store_url)
        stack.push_async_callback(store.aclose)
        clock = SystemClock()
        actuator = await stack.enter_async_context(_actuator(fleet, store, clock, dry=dry))
        tasks = await stack.enter_async_context(scaling(fleet, classes, store, actuator))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in done - {stopped}:
            task.result()
    return 0


@contextlib.asynccontextmanager
async def scaling(
    fleet: configuration.FleetConfig,
    classes: Mapping[str, Class],
    store: Redis,
    actuator: Actuator,
    say: Callable[[str], None] = print,
) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
    """Look, decide and act while the block runs; gives the tasks, none of which should end."""
    registry = Registry(store)
    scaler = Autoscaler(
        fleet, classes, store=store, registry=registry, actuator=actuator, clock=SystemClock()
    )
    async with serving(
        scaler, fleet.host, fleet.port, lambda url: say(f"metrics of the autoscaler: {url}/metrics")
    ):
        tasks = [
            asyncio.create_task(registry.run(), name="autoscaler's registry"),
            asyncio.create_task(Prober(registry).run(), name="autoscaler's probes"),
            asyncio.create_task(scaler.run(), name="autoscaler"),
        ]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _actuator(
    fleet: configuration.FleetConfig, store: Any, clock: SystemClock, *, dry: bool
) -> AsyncIterator[Actuator]:
    from autoscale.drain import DrainPace

    pace = DrainPace(within_s=fleet.drain_within_s)
    if dry or fleet.actuator == "dry":
        yield DryActuator(clock, by_pool={k: each.cold_start_s for k, each in fleet.kinds.items()})
    elif fleet.actuator == "docker":
        import aiodocker

        from autoscale.actuate.docker import DockerActuator, DockerPool

        async with aiodocker.Docker() as docker:
            pools = _known(fleet, DockerPool)
            runner = DockerActuator(docker, store, pools, clock=clock, pace=pace)
            try:
                yield runner
            finally:
                await runner.close()
    elif fleet.actuator == "kubernetes":
        from kubernetes_asyncio import client
        from kubernetes_asyncio import config as kube

        from autoscale.actuate.kubernetes import ClientApi, KubernetesActuator, KubernetesPool

        try:
            kube.load_incluster_config()  # type: ignore[no-untyped-call]
        except kube.ConfigException:
            await kube.load_kube_config()
        async with client.ApiClient() as connection:
            by_key = _known(fleet, KubernetesPool)
            scaler = KubernetesActuator(
                ClientApi(connection), store, by_key, clock=clock, pace=pace
            )
            try:
                yield scaler
            finally:
                await scaler.close()
    else:
        raise Failed("local processes are scaled by `sluice up --autoscale`", 2)


def _known(fleet: configuration.FleetConfig, make: Callable[..., Of]) -> dict[str, Of]:
    """Give what an actuator needs to know of each kind, by its key; raises Failed."""
    found = {}
    for key, kind in fleet.kinds.items():
        try:
            found[key] = make(**kind.actuation)
        except TypeError as error:
            said = str(error).removeprefix(f"{make.__name__}.__init__() ")
            raise Failed(f"{key}: actuation of {fleet.actuator}: {said}", 2) from error
    return found


def plan(arguments: Sequence[str]) -> int:
    """How many nodes for a rate within a scenario's promise?"""
    parser = argparse.ArgumentParser(prog="sluice plan", description=plan.__doc__)
    add = parser.add_argument
    add("--model", required=True, help=f"known: {', '.join(known_models())}")
    add("--hardware", help=f"{', '.join(known_hardware())} or measured; default: mi355x")
    add("--profile", type=Path, action="append", default=[], help="a file of `sluice calibrate`")
    add("--scenario", choices=SCENARIOS, default="server")
    add("--rate", type=float, required=True, metavar="TOK_PER_S", help="output tokens per second")
    add("--seed", type=int, default=1)
    add("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        profiles = measured.read(options.profile)
        known = _profile(profiles, options.model, options.hardware)
        found = size(known, options.scenario, options.rate, seed=options.seed)
    except (BadProfile, UnknownHardware, Unreachable) as error:
        raise Failed(str(error), 2) from error
    text = told(found, known, options.scenario, options.rate)
    print(json.dumps(asdict(found), indent=1) if options.json else text)
    return 0


def _profile(profiles: Profiles, model: str, hardware: str | None) -> Profile:
    """Give what is known of a model; raises Failed where nothing is, UnknownHardware."""
    measured_on = [name for each, name in profiles.measured if each == model]
    if model not in known_models() and not measured_on:
        raise Failed(
            f"nothing is known of {model!r}: known are {', '.join(known_models())}; for another"
            " model give --profile a file of `sluice calibrate`",
            2,
        )
    return profiles.profile(model, hardware or (*measured_on, "mi355x")[0])
