"""What do several commands ask in the same way, and how do they read the settings?"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from gateway.cli.failure import USAGE, CommandFailed
from gateway.config import ConfigError, load
from gateway.settings import Settings


def add_config(parser: argparse.ArgumentParser) -> None:
    """Ask for the configuration file; SLUICE_CONFIG names it, too."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=os.environ.get("SLUICE_CONFIG"),
        help="configuration file (YAML); SLUICE_CONFIG names it, too",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Ask for the data directory."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help=f"keys, logs and the embedded store (default: {default_data_dir()})",
    )


def add_redis_url(parser: argparse.ArgumentParser) -> None:
    """Ask for the store."""
    parser.add_argument(
        "--redis-url", metavar="URL", help="the gateways' Redis or Valkey; REDIS_URL names it, too"
    )


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Ask where a gateway's admin API is, and in which form its answer is to be shown."""
    parser.add_argument("--admin-url", metavar="URL", help="the gateway's admin API")
    parser.add_argument("--admin-key-file", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config(parser)
    add_data_dir(parser)


def read_settings(
    options: argparse.Namespace,
    flags: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings that hold; what is None on the command line sets nothing.

    Raises CommandFailed with status 2 and a line per fault.
    """
    asked = {name: getattr(options, name, None) for name in ("data_dir", "redis_url")}
    given = {name: value for name, value in {**asked, **(flags or {})}.items() if value is not None}
    path = None if options.config is None else Path(options.config)
    try:
        return load(path, os.environ, given, defaults=defaults)
    except ConfigError as error:
        raise CommandFailed(str(error).replace("\n", "\nerror: "), USAGE) from error


def default_data_dir() -> Path:
    """Give the user's data directory."""
    return platformdirs.user_data_path("sluice", appauthor=False)


def say(line: str) -> None:
    """Tell a person how far it is, apart from what a program may read."""
    print(line, file=sys.stderr, flush=True)
