"""Which replica processes does `sluice up` start here, and how are they started?"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backends.embedded.diffusion import TINY_WAN
from backends.embedded.environment import SMOLLM2
from backends.hardware import REFERENCE_HARDWARE
from backends.launch import LaunchSpec
from gateway.cli.data_dir import DataDir
from gateway.cli.replica_service import free_ports

HOST = "127.0.0.1"
STOP_GRACE_S = 30.0
SIMULATED_MODELS = ("llama2-70b", "gpt-oss-120b")
SIMULATED_VIDEO = "wan-2.2-t2v-a14b"
ENGINES = ("sglang", "simulated", "none")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the fleet here; `replicas` of each model."""

    engine: str
    replicas: int = 1
    throughput_scale: float = 1.0
    stream_interval: int = 16
    drain_s: float = 600.0
    video: bool = True
    workers: int = 1
    config: Path | None = None
    scaled: bool = False  # an autoscaler starts the replicas that speak


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """Processes to start, and the URLs of the replicas that they bring into service.

    `later` are processes that nobody waits for: what they serve, `later_models`, comes when it
    comes.
    """

    specs: tuple[LaunchSpec, ...] = ()
    later: tuple[LaunchSpec, ...] = ()
    urls: frozenset[str] = frozenset()
    later_models: tuple[str, ...] = ()


def plan(wanted: Wanted, data: DataDir, store_url: str) -> LocalFleet:
    """Say which processes make up the fleet, on ports that are free now."""
    fleet = LocalFleet()
    match wanted.engine:
        case "sglang":
            fleet = _sglang(wanted, data, store_url)
        case "simulated" if not wanted.scaled:
            fleet = _simulated(wanted, data, store_url)
    workers = tuple(_worker(wanted, data, store_url) for _ in range(wanted.workers))
    fleet = replace(fleet, specs=(*fleet.specs, *workers))
    if not wanted.video or wanted.engine == "none":
        return fleet
    model = SIMULATED_VIDEO if wanted.engine == "simulated" else TINY_WAN
    spec = _video(model, wanted, data, store_url)
    return replace(fleet, later=(spec,), later_models=(model,))


def _sglang(wanted: Wanted, data: DataDir, store_url: str) -> LocalFleet:
    specs = []
    first = free_ports(HOST, wanted.replicas)
    for port in range(first, first + wanted.replicas):
        words = ("sglang", "--model", SMOLLM2, "--embedded", SMOLLM2)
        specs.append(_spec(words, wanted, data, store_url, port))
    return LocalFleet(tuple(specs), urls=frozenset(spec.url for spec in specs))


def _simulated(wanted: Wanted, data: DataDir, store_url: str) -> LocalFleet:
    count = wanted.replicas * len(SIMULATED_MODELS)
    first = free_ports(HOST, count)
    words = (
        "simulated",
        *(word for model in SIMULATED_MODELS for word in ("--model", model)),
        *("--replicas", str(wanted.replicas), "--hardware", "mi355x"),
        *("--throughput-scale", repr(wanted.throughput_scale)),
        *("--stream-interval", str(wanted.stream_interval)),
    )
    spec = _spec(words, wanted, data, store_url, first)
    urls = frozenset(f"http://{HOST}:{port}" for port in range(first, first + count))
    return LocalFleet((spec,), urls=urls)


def simulated_unit(
    model: str,
    wanted: Wanted,
    data: DataDir,
    store_url: str,
    *,
    load_s: float,
    hardware: str = REFERENCE_HARDWARE,
) -> LaunchSpec:
    """Say how one more simulated replica of a model is started; it holds its own lease.

    It has as long to end as its calls may take: a replica that leaves cuts nobody off.
    """
    words = (
        *("simulated", "--model", model, "--hardware", hardware, "--load-s", repr(load_s)),
        *("--throughput-scale", repr(wanted.throughput_scale)),
        *("--stream-interval", str(wanted.stream_interval)),
    )
    spec = _spec(words, wanted, data, store_url, free_ports(HOST, 1))
    return replace(spec, stop_grace_s=wanted.drain_s + STOP_GRACE_S)


def _video(model: str, wanted: Wanted, data: DataDir, store_url: str) -> LaunchSpec:
    """Serve a video model with the engine that serves the others."""
    if wanted.engine == "simulated":
        speed = ("--speed", repr(wanted.throughput_scale), "--replicas", str(wanted.replicas))
        words = ("diffusion", "--model", model, "--simulated", *speed)
        spec = _spec(words, wanted, data, store_url, free_ports(HOST, wanted.replicas))
    else:
        embedded = ("diffusion", "--model", model, "--embedded")
        spec = _spec(embedded, wanted, data, store_url, free_ports(HOST, 1))
    return replace(spec, ready_path="/health")


def _worker(wanted: Wanted, data: DataDir, store_url: str) -> LaunchSpec:
    port = free_ports(HOST, 1)
    config = ("--config", str(wanted.config)) if wanted.config is not None else ()
    return LaunchSpec(
        name=f"worker on port {port}",
        argv=(
            *(sys.executable, "-m", "gateway.cli", "worker", "--host", HOST, "--port", str(port)),
            *("--data-dir", str(data.path), *config),
        ),
        url=f"http://{HOST}:{port}",
        log_path=data.logs / f"worker-{port}.log",
        env=_environ(os.environ, store_url),
        stop_grace_s=STOP_GRACE_S,
    )


def _spec(
    words: Sequence[str], wanted: Wanted, data: DataDir, store_url: str, port: int
) -> LaunchSpec:
    return LaunchSpec(
        name=f"{words[0]} replica on port {port}",
        argv=(
            *(sys.executable, "-m", "gateway.cli", "replica", *words),
            *("--host", HOST, "--port", str(port), "--drain-s", repr(wanted.drain_s)),
            *("--data-dir", str(data.path)),
        ),
        url=f"http://{HOST}:{port}",
        log_path=data.logs / f"replica-{port}.log",
        env=_environ(os.environ, store_url),
        stop_grace_s=STOP_GRACE_S,
    )


def _environ(ours: Mapping[str, str], store_url: str) -> dict[str, str]:
    """Name the store where other users of the machine do not see it."""
    return {**ours, "SLUICE_REDIS_URL": store_url}
