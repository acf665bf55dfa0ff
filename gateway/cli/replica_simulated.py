"""How do replicas with the timing of a GPU come into service here, many in one process?"""

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from backends.fleet import EngineKind, Replica
from backends.hardware import UnknownHardware
from backends.registry import replica_id
from backends.simulated.cli import add_arguments, settings_of
from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.keys import store_url
from gateway.cli.options import read_settings
from gateway.cli.replica_service import Service, add_common, advertised, hold, reached_by

ABOUT = (
    "Serve replicas with the timing of a GPU, many in one process, and keep their places "
    "in the registry. SIGTERM drains them."
)


def main(arguments: Sequence[str]) -> int:
    """Serve simulated replicas until a signal."""
    options = _parser().parse_args(arguments)
    settings = read_settings(options)
    simulations = _simulations(options)
    host = options.advertise or advertised(options.host)
    return hold(
        lambda: _begin(simulations, options.site, host),
        store_url(settings),
        drain_s=options.drain_s,
        load_s=options.load_s,
        ready_file=options.ready_file,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice replica simulated", description=ABOUT, conflict_handler="resolve"
    )
    add_arguments(parser)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="a model to serve, may be repeated; one that is not known has llama2-70b's timing",
    )
    parser.add_argument(
        "--advertise",
        metavar="HOST",
        help="name by which gateways reach them (default: --host, or this machine's own name"
        " where that is a wildcard)",
    )
    parser.add_argument(
        "--load-s",
        type=float,
        default=0.0,
        metavar="S",
        help="serve only after so many seconds, as an engine does that loads its weights",
    )
    add_common(parser)
    return parser


def _simulations(options: argparse.Namespace) -> list[SimulatedSettings]:
    """Give what is simulated, one for each model; their ports follow each other."""
    found = []
    try:
        for index, model in enumerate(options.model):
            port = options.port + index * options.replicas if options.port else 0
            asked = {**vars(options), "model": model, "port": port}
            found.append(settings_of(argparse.Namespace(**asked)))
    except (ValueError, UnknownHardware) as error:
        raise CommandFailed(str(error), USAGE) from error
    return found


@asynccontextmanager
async def _begin(
    simulations: Sequence[SimulatedSettings], site: str, host: str
) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        replicas: list[Replica] = []
        for each in simulations:
            urls = await stack.enter_async_context(serve(each))
            replicas += [_replica(each, reached_by(url, host), site) for url in urls]
        yield Service(tuple(replicas))


def _replica(simulation: SimulatedSettings, url: str, site: str) -> Replica:
    return Replica(
        id=replica_id(simulation.model, url),
        model=simulation.model,
        url=url,
        engine=EngineKind.SIMULATED,
        hardware=simulation.hardware,
        site=site,
        api_key=simulation.api_key,
    )
