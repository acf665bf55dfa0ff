"""How does a diffusion server come into service here: SGLang's, one without a GPU, or another's?"""

import argparse
import functools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from backends.diffusion import UnknownVideoModel, launch_command
from backends.embedded import diffusion, environment, steps
from backends.fleet import EngineKind, Replica
from backends.launch import LaunchSpec
from backends.registry import replica_id
from backends.simulated.diffusion_server import serve_diffusion
from backends.simulated.diffusion_settings import DiffusionSettings
from gateway.cli.data_dir import DataDir
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.keys import store_url
from gateway.cli.options import default_data_dir, read_settings, say
from gateway.cli.replica_service import (
    Service,
    add_common,
    advertised,
    engine_key,
    free_ports,
    given,
    hold,
    reached_by,
)
from gateway.settings import Settings

ABOUT = (
    "Start a diffusion server here (SGLang's, or one without a GPU), or adopt one that "
    "runs, and keep its place in the registry. SIGTERM drains it."
)

ENGINE_GRACE_S = 15.0


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal."""
    options = _parser().parse_args(arguments)
    settings = read_settings(options)
    url = store_url(settings)
    if options.simulated:
        begin = functools.partial(_simulated, options)
    else:
        begin = functools.partial(given, _service(options, settings))
    return hold(begin, url, drain_s=options.drain_s, ready_file=options.ready_file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice replica diffusion", description=ABOUT)
    parser.add_argument("--model", required=True, help="public id of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="adopt the server at this base URL instead of starting one")
    source.add_argument(
        "--simulated", action="store_true", help="serve SGLang's surface with an MI355X's timing"
    )
    source.add_argument(
        "--embedded",
        action="store_true",
        help="start SGLang's diffusion server on this machine's CPU with a tiny Wan (built once)",
    )
    source.add_argument("--checkpoint", help="start it with these weights instead of the model's")
    parser.add_argument("--host", default="127.0.0.1", help="address of a started one")
    parser.add_argument("--port", type=int, default=0, help="port of a started one; 0: any free")
    parser.add_argument(
        "--otlp", metavar="HOST:PORT", help="collector (gRPC) that a started one sends spans to"
    )
    parser.add_argument("--advertise", metavar="HOST", help="name by which gateways reach it")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that one video is spread over")
    parser.add_argument("--python", default="python3", help="interpreter that has SGLang")
    parser.add_argument("--served-name", help="the model's name inside an adopted engine")
    parser.add_argument("--hardware", default="mi355x", help="generation of GPU")
    parser.add_argument("--api-key-file", type=Path, help="file that holds the engine's API key")
    parser.add_argument("--replicas", type=int, default=1, help="simulated ones, on ports in a row")
    parser.add_argument("--speed", type=float, default=1.0, help="divide simulated times by this")
    add_common(parser)
    return parser


@asynccontextmanager
async def _simulated(options: argparse.Namespace) -> AsyncIterator[Service]:
    how = DiffusionSettings(
        model=options.model,
        host=options.host,
        port=options.port,
        replicas=options.replicas,
        speed=options.speed,
    )
    host = options.advertise or advertised(options.host)
    async with serve_diffusion(how) as replicas:
        made = {_replica(options, reached_by(each.url, host)): each for each in replicas}
        engines = {replica.id: each for replica, each in made.items()}
        yield Service(tuple(made), restart=lambda id_: engines[id_].restart())


def _service(options: argparse.Namespace, settings: Settings) -> Service:
    if options.url is not None:
        return Service((_replica(options, options.url),))
    port = options.port or free_ports(options.host, 1)
    own_url = f"http://{options.host}:{port}"
    argv, env = _embedded(options, port) if options.embedded else _launch_line(options, port)
    logs = DataDir(settings.data_dir or default_data_dir()).logs
    logs.mkdir(parents=True, exist_ok=True)
    spec = LaunchSpec(
        name=f"diffusion {options.model}",
        argv=argv,
        env=env,
        url=own_url,
        cwd=logs,
        log_path=logs / f"diffusion-{port}.log",
        ready_path="/health",
        stop_grace_s=ENGINE_GRACE_S,
    )
    host = options.advertise or advertised(options.host)
    return Service((_replica(options, reached_by(own_url, host)),), spec)


def _replica(options: argparse.Namespace, url: str) -> Replica:
    return Replica(
        id=replica_id(options.model, url),
        model=options.model,
        url=url.rstrip("/"),
        engine=EngineKind.DIFFUSION,
        hardware="cpu" if options.embedded else options.hardware,
        site=options.site,
        served_name=options.served_name,
        max_running=1,
        api_key=engine_key(options),
    )


def _embedded(options: argparse.Namespace, port: int) -> tuple[list[str], dict[str, str]]:
    workshop = environment.Workshop.of(os.environ, say)
    try:
        python = diffusion.ensure_engine(workshop)
        model = diffusion.ensure_model(workshop)
    except (environment.WrongPython, steps.BuildFailed) as error:
        raise CommandFailed(str(error)) from error
    return diffusion.command(python, model, host=options.host, port=port), diffusion.environ(
        os.environ
    )


def _launch_line(options: argparse.Namespace, port: int) -> tuple[list[str], dict[str, str]]:
    try:
        line = launch_command(
            options.model,
            port=port,
            host=options.host,
            gpus=options.gpus,
            checkpoint=options.checkpoint,
            otlp=options.otlp,
            python=options.python,
        )
    except UnknownVideoModel as error:
        raise CommandFailed(f"{error} Or adopt one that runs, by --url.", USAGE) from error
    except ValueError as error:
        raise CommandFailed(str(error), USAGE) from error
    return list(line.argv), {**os.environ, **line.env}
