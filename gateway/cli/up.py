"""How does one command bring up everything on this machine, and end it without a trace?"""

import argparse
import os
import signal
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

from redis import RedisError

from autoscale.config import FleetConfig
from backends.embedded import environment, steps
from backends.launch import LaunchFailed
from backends.store import StoreFailed
from gateway.cli.data_dir import DataDir
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.interrupts import run
from gateway.cli.local_fleet import ENGINES, Wanted
from gateway.cli.options import (
    add_config,
    add_data_dir,
    add_redis_url,
    default_data_dir,
    read_settings,
    say,
)
from gateway.cli.stack import Stack
from gateway.settings import Settings

ABOUT = (
    "Start a store, replicas, a worker and a gateway on this machine, and tell how to "
    "call it. Ctrl-C lets calls finish and ends all of it; a second one ends it at once."
)


class Scaling(Enum):
    """What `--autoscale` alone asks for, which no path can mean."""

    WITHOUT_A_FILE = auto()


def main(arguments: Sequence[str]) -> int:
    """Start a store, replicas and a gateway; tell how to call it; end all of it on a signal."""
    options = _parser().parse_args(arguments)
    settings = _settings(options, {})
    data = DataDir((settings.data_dir or default_data_dir()).expanduser().absolute())
    try:
        data.make()
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
        if settings.admin_key is None:
            settings = _settings(options, {"admin_key": data.ensure_admin_key()})
    except OSError as error:
        raise CommandFailed(f"cannot be written: {error}") from error
    wanted = _wanted(options, settings)
    fleet = _fleet(options.autoscale, wanted) if wanted.scaled else None
    if options.engine == "sglang":
        _build()
    stack = Stack(settings, data, wanted, options.ready_file, fleet)
    try:
        return run(stack.run)
    except (LaunchFailed, StoreFailed, RedisError, OSError) as error:
        raise CommandFailed(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice up", description=ABOUT)
    add = parser.add_argument
    add("--engine", choices=ENGINES, default="sglang", help="what the replicas here run")
    add("--replicas", type=int, default=1, metavar="N", help="replicas here of each model")
    add("--host", help="address of the API (default: 127.0.0.1)")
    add("--port", type=int, help="port of the API; 0: any free one (default: 8000)")
    add("--admin-port", type=int, help="port of the admin API; 0: any free one (default: 8001)")
    add("--no-video", action="store_true", help="start no replica that makes videos")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that make videos and run batches",
    )
    add("--no-auth", action="store_true", default=None, help="serve without keys, on loopback only")
    add("--ready-file", type=Path, metavar="F", help="write addresses and keys here (JSON)")
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)
    group = parser.add_argument_group("simulated replicas")
    group.add_argument(
        "--throughput-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="divide the time per token by S; one prompt's prefill takes 1/S as long, too",
    )
    group.add_argument(
        "--stream-interval", type=int, default=16, metavar="N", help="tokens per streamed chunk"
    )
    group.add_argument(
        "--autoscale",
        nargs="?",
        type=Path,
        const=Scaling.WITHOUT_A_FILE,
        metavar="FLEET",
        help="start and end replicas as load asks for them, by a fleet file (YAML) or from"
        " --replicas on, up to 8 of each model",
    )
    return parser


def _settings(options: argparse.Namespace, more: dict[str, object]) -> Settings:
    """Read the settings; with any free port for the API, the admin API takes any, too."""
    flags = {name: getattr(options, name) for name in ("host", "port", "admin_port", "no_auth")}
    defaults = {
        "admin_port": 0 if options.port == 0 else 8001,
        "telemetry": {"log_format": "console", "log_level": "warning"},
    }
    return read_settings(options, {**flags, **more}, defaults)


def _wanted(options: argparse.Namespace, settings: Settings) -> Wanted:
    if options.replicas < 1 or options.stream_interval < 1 or not options.throughput_scale > 0:
        raise CommandFailed(
            "--replicas, --stream-interval and --throughput-scale must be above 0", USAGE
        )
    return Wanted(
        engine=options.engine,
        replicas=options.replicas,
        throughput_scale=options.throughput_scale,
        stream_interval=options.stream_interval,
        drain_s=settings.timeouts.drain_s,
        video=not options.no_video,
        workers=options.workers,
        config=None if options.config is None else Path(options.config).absolute(),
        scaled=options.autoscale is not None,
    )


def _fleet(asked: Path | Scaling, wanted: Wanted) -> FleetConfig:
    """Read what is to be scaled; the autoscaler's packages are an extra."""
    try:
        from gateway.cli.scaled import fleet_of
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"--autoscale needs packages that are not installed ({error}): `make install` in a"
            " checkout, else pip install 'sluice[autoscale]'",
            USAGE,
        ) from error
    return fleet_of(None if isinstance(asked, Scaling) else asked, wanted)


def _build() -> None:
    """Make the engine's environment and the model unless they are there; minutes the first time."""
    workshop = environment.Workshop.of(os.environ, say)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pip ends, too
    try:
        environment.ensure_engine(workshop)
        environment.ensure_model(environment.SMOLLM2, workshop)
    except (environment.WrongPython, steps.BuildFailed) as error:
        raise CommandFailed(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)
