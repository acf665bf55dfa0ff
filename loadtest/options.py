"""Which options describe a run, on our command line and on Locust's?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

ARRIVALS = ("loadgen", "poisson", "constant", "burst", "trace")
# Locust's page gives options back in the type of their default, and these, without one, as text.
_WITHOUT_DEFAULT: Mapping[str, Callable[[str], float]] = {
    "duration": float,
    "samples": int,
    "min_queries": int,
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything that makes a run what it is; `None` leaves a choice to the scenario.

    `duration`: minimum duration (s); below the scenario's own it also ends whole dataset passes.
    `samples`: use only that many of the dataset. `skip`: begin so far on in their order, so that
    runs one after the other do not find each other's prompts in a cache. `timeout`: seconds after
    which a query counts as unanswered.
    """

    scenario: str = "server"
    model: str = "llama2-70b"
    served_model: str = ""
    target_qps: float = 1.0
    duration: float | None = None
    samples: int | None = None
    skip: int = 0
    min_queries: int | None = None
    dataset: str = ""
    trust_pickle: bool = False
    seed: str = "v6.0"
    arrival: str = "loadgen"
    trace: str = ""
    trace_start: float = 0.0
    trace_speed: float = 1.0
    burst_size: int = 10
    api_key: str = ""
    insecure: bool = False
    timeout: float = 600.0
    warm_connections: int = 0
    warm_up: int = 10
    late_bound_ms: float = 10.0
    tenant_keys: str = ""
    poll_s: float = 0.1
    note: str = ""
    out: str = ""

    @classmethod
    def of(cls, namespace: Namespace | Mapping[str, Any]) -> RunOptions:
        """Take the known options out of a namespace."""
        values = namespace if isinstance(namespace, Mapping) else vars(namespace)
        return cls(
            **{f.name: _read(f.name, values[f.name]) for f in fields(cls) if f.name in values}
        )

    def arguments(self) -> list[str]:
        """Write the options as a command line, the key left out (it goes by environment)."""
        line = []
        for name, value in asdict(self).items():
            flag = "--" + name.replace("_", "-")
            if name == "api_key" or value is None or value == "":
                continue
            if isinstance(value, bool):
                line += [flag] if value else []
            else:
                line += [flag, str(value)]
        return line


def _read(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in _WITHOUT_DEFAULT:
        return value
    return _WITHOUT_DEFAULT[name](value) if value.strip() else None


def add_run_options(parser: Any, *, locust: bool = False) -> None:
    """Declare the options on an ArgumentParser (or Locust's, which also shows them in its web
    page).
    """
    hidden: dict[str, Any] = {"include_in_web_ui": False} if locust else {}
    secret: dict[str, Any] = {"is_secret": True, "env_var": "SLUICE_API_KEY"} if locust else {}
    _add_load(parser.add_argument, hidden)
    _add_endpoint(parser.add_argument, hidden, secret)


def _add_load(add: Callable[..., object], hidden: dict[str, Any]) -> None:
    """Declare what is sent, and when."""
    add(
        "--scenario",
        default="server",
        help="server, interactive, offline, single_stream, or a YAML file",
    )
    add("--model", default="llama2-70b", help="the scenario's model")
    add("--served-model", default="", help="the name the endpoint knows the model by, if another")
    add("--target-qps", type=float, default=1.0, help="arrivals per second (Server, Offline)")
    add("--duration", type=float, default=None, help="minimum duration in seconds")
    add("--samples", type=int, default=None, help="use only so many samples of the dataset")
    add("--skip", type=int, default=0, help="begin so far on in the samples' order", **hidden)
    add("--min-queries", type=int, default=None, help="minimum query count", **hidden)
    add("--dataset", default="", help="the dataset's file; a synthetic stand-in without it")
    add("--trust-pickle", action="store_true", help="allow a dataset that is a pickle", **hidden)
    add("--seed", default="v6.0", help="a round's seeds (v6.0, v6.1) or an integer")
    add("--arrival", choices=ARRIVALS, default="loadgen", help="the arrival process")
    add("--trace", default="", help="a recorded trace to replay (with --arrival trace)")
    add("--trace-start", type=float, default=0.0, help="seconds into the trace")
    add("--trace-speed", type=float, default=1.0, help="replay so many times as fast")
    add("--burst-size", type=int, default=10, help="queries per burst (with --arrival burst)")


def _add_endpoint(
    add: Callable[..., object], hidden: dict[str, Any], secret: dict[str, Any]
) -> None:
    """Declare how the endpoint is spoken to, and what becomes of it."""
    add("--api-key", default="", help="sent as a bearer token", **secret)
    add("--insecure", action="store_true", help="do not verify TLS certificates", **hidden)
    add("--timeout", type=float, default=600.0, help="seconds until a query counts as unanswered")
    add(
        "--warm-connections",
        type=int,
        default=0,
        help="connections opened before the start",
        **hidden,
    )
    add("--warm-up", type=int, default=10, help="queries before the start, unrecorded", **hidden)
    add(
        "--late-bound-ms",
        type=float,
        default=10.0,
        help="the generator's own p99 lateness beyond which a run is INVALID",
        **hidden,
    )
    add("--tenant-keys", default="", help="YAML file: the API key of each tenant", **hidden)
    add("--poll-s", type=float, default=0.1, help="seconds between polls of a video job", **hidden)
    add("--note", default="", help="what else makes this no run of MLPerf's", **hidden)
    add("--out", default="", help="directory of the results", **hidden)


def parser() -> ArgumentParser:
    """Build a bare parser of the run's options."""
    made = ArgumentParser(add_help=False)
    add_run_options(made)
    return made
