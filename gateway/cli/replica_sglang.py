"""How does a real SGLang come into service here, or one that somebody else runs?"""

import argparse
import functools
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from backends.clock import SystemClock
from backends.embedded import environment, server, steps
from backends.fleet import EngineKind, Replica
from backends.launch import LaunchSpec
from backends.proving import prove
from backends.registry import replica_id
from backends.sglang import UnknownModel, launch_command
from gateway.cli.canary import add_canary, canary_of
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
    "Start SGLang here, or adopt one that runs, and keep its place in the registry. "
    "SIGTERM drains it."
)

ENGINE_GRACE_S = 15.0


def main(arguments: Sequence[str]) -> int:
    """Serve one replica until a signal."""
    options = _parser().parse_args(arguments)
    settings = read_settings(options)
    service = _service(options, settings)
    return hold(
        lambda: given(service),
        store_url(settings),
        drain_s=options.drain_s,
        ready_file=options.ready_file,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice replica sglang", description=ABOUT)
    parser.add_argument("--model", required=True, help="public id of the model")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="adopt the server at this base URL instead of starting one")
    source.add_argument(
        "--embedded",
        choices=sorted(environment.MODELS),
        help="start SGLang on this machine's CPU with a small model (built the first time)",
    )
    source.add_argument("--checkpoint", help="start it with these weights instead of the model's")
    parser.add_argument("--host", default="127.0.0.1", help="address of a started one")
    parser.add_argument("--port", type=int, default=0, help="port of a started one; 0: any free")
    parser.add_argument("--gpu", type=int, help="GPU of a started one")
    parser.add_argument("--tp", type=int, default=1, help="GPUs that it is spread over")
    parser.add_argument("--stream-interval", type=int, default=16, help="tokens per chunk")
    parser.add_argument("--python", default="python3", help="interpreter that has SGLang")
    parser.add_argument(
        "--otlp", metavar="HOST:PORT", help="collector (gRPC) that a started one sends spans to"
    )
    parser.add_argument("--advertise", metavar="URL", help="URL by which gateways reach it")
    parser.add_argument("--served-name", help="the model's name inside an adopted engine")
    parser.add_argument("--hardware", default="mi355x", help="generation of GPU")
    parser.add_argument("--max-running", type=int, help="calls that may run on it at once")
    add_canary(parser)
    parser.add_argument("--api-key-file", type=Path, help="file that holds the engine's API key")
    add_common(parser)
    return parser


def _service(options: argparse.Namespace, settings: Settings) -> Service:
    proof = _proof(options)
    if options.url is not None:
        return Service((_replica(options, options.url),), prove=proof)
    port = options.port or free_ports(options.host, 1)
    own_url = f"http://{options.host}:{port}"
    advertise = options.advertise or reached_by(own_url, advertised(options.host))
    argv, env = _embedded(options, port) if options.embedded else _launch_line(options, port)
    logs = DataDir(settings.data_dir or default_data_dir()).logs
    logs.mkdir(parents=True, exist_ok=True)
    spec = LaunchSpec(
        name=f"sglang {options.model}",
        argv=argv,
        env=env,
        url=own_url,
        log_path=logs / f"sglang-{port}.log",
        stop_grace_s=ENGINE_GRACE_S,
    )
    return Service((_replica(options, advertise),), spec, prove=proof)


def _proof(options: argparse.Namespace) -> Callable[[Replica], Awaitable[object]] | None:
    """Give what a replica must pass; none where a small model stands in for the named one."""
    if options.embedded and options.canary is None:
        return None
    canary = canary_of(options.canary, options.model)
    if canary is None:
        return None
    return functools.partial(prove, canary=canary, clock=SystemClock(), say=say)


def _replica(options: argparse.Namespace, url: str) -> Replica:
    return Replica(
        id=replica_id(options.model, url),
        model=options.model,
        url=url.rstrip("/"),
        engine=EngineKind.EMBEDDED if options.embedded else EngineKind.SGLANG,
        hardware="cpu" if options.embedded else options.hardware,
        site=options.site,
        served_name=options.served_name,
        max_running=options.max_running or 0,
        api_key=engine_key(options),
    )


def _embedded(options: argparse.Namespace, port: int) -> tuple[list[str], dict[str, str]]:
    workshop = environment.Workshop.of(os.environ, say)
    try:
        python = environment.ensure_engine(workshop)
        model = environment.ensure_model(options.embedded, workshop)
    except (environment.WrongPython, steps.BuildFailed) as error:
        raise CommandFailed(str(error)) from error
    argv = server.command(
        python, model, served_model_name=options.model, host=options.host, port=port
    )
    return argv, server.environ(os.environ)


def _launch_line(options: argparse.Namespace, port: int) -> tuple[list[str], dict[str, str]]:
    try:
        line = launch_command(
            options.model,
            port=port,
            host=options.host,
            gpu=options.gpu,
            tp=options.tp,
            stream_interval=options.stream_interval,
            max_running=options.max_running,
            checkpoint=options.checkpoint,
            otlp=options.otlp,
            python=options.python,
        )
    except UnknownModel as error:
        raise CommandFailed(f"{error} Start it yourself and adopt it by --url.", USAGE) from error
    return list(line.argv), {**os.environ, **line.env}
