"""Which replica processes does `sluice up` start here, and how are they started?"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.embedded.environment import SMOLLM2
from backends.launch import LaunchSpec
from gateway.cli.data_dir import DataDir
from gateway.cli.replica_service import free_ports

HOST = "127.0.0.1"
STOP_GRACE_S = 30.0
SIMULATED_MODELS = ("llama2-70b", "gpt-oss-120b")
ENGINES = ("sglang", "simulated", "none")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the fleet here; `replicas` of each model."""

    engine: str
    replicas: int = 1
    throughput_scale: float = 1.0
    stream_interval: int = 16
    drain_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """Processes to start, and the URLs of the replicas that they bring into service."""

    specs: tuple[LaunchSpec, ...] = ()
    urls: frozenset[str] = frozenset()


def plan(wanted: Wanted, data: DataDir, store_url: str) -> LocalFleet:
    """Say which processes make up the fleet, on ports that are free now."""
    match wanted.engine:
        case "sglang":
            return _sglang(wanted, data, store_url)
        case "simulated":
            return _simulated(wanted, data, store_url)
    return LocalFleet()


def _sglang(wanted: Wanted, data: DataDir, store_url: str) -> LocalFleet:
    specs = []
    first = free_ports(HOST, wanted.replicas)
    for port in range(first, first + wanted.replicas):
        words = ("sglang", "--model", SMOLLM2, "--embedded", SMOLLM2)
        specs.append(_spec(words, wanted, data, store_url, port))
    return LocalFleet(tuple(specs), frozenset(spec.url for spec in specs))


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
    return LocalFleet((spec,), urls)


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
