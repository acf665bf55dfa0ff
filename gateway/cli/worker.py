"""Who works on videos and batches here? One worker process; run as many as are needed."""

import argparse
from collections.abc import Sequence

from redis import RedisError

from backends.store_schema import WrongSchema
from gateway.cli.failure import CommandFailed
from gateway.cli.interrupts import Interrupts, run
from gateway.cli.keys import store_url
from gateway.cli.options import add_config, add_data_dir, add_redis_url, read_settings, say
from gateway.settings import Settings
from gateway.worker_main import serve_worker

ABOUT = (
    "Work on videos and batches: one process, as many as are needed. SIGTERM gives what "
    "is at work to another."
)


def main(arguments: Sequence[str]) -> int:
    """Work until a signal; what is at work then is given to another worker."""
    parser = argparse.ArgumentParser(prog="sluice worker", description=ABOUT)
    parser.add_argument("--host", default="127.0.0.1", help="address of /ready and /metrics")
    parser.add_argument("--port", type=int, default=0, help="their port; 0: any free one")
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)
    options = parser.parse_args(arguments)
    settings = read_settings(options)
    url = store_url(settings)
    return run(lambda interrupts: _serve(settings, url, options, interrupts))


async def _serve(
    settings: Settings, url: str, options: argparse.Namespace, interrupts: Interrupts
) -> int:
    try:
        return await serve_worker(
            settings,
            redis_url=url,
            stop=interrupts.stop,
            host=options.host,
            port=options.port,
            on_ready=lambda where: say(f"sluice worker: at work; {where}/metrics"),
        )
    except (OSError, RedisError, WrongSchema) as error:
        raise CommandFailed(str(error)) from error
