"""Which replicas does a running gateway know? They are shown and changed by its admin API."""

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.cli.data_dir import DataDir, read_secret
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.keys import table
from gateway.cli.options import (
    add_admin,
    default_data_dir,
    read_settings,
    say,
)

ABOUT = (
    "List, add, drain and remove the replicas that a running gateway knows, through its admin API."
)

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class AdminApi:
    """An admin API and the key to it."""

    url: str
    key: str

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        """Send one request; give the answer's JSON. Raises CommandFailed."""
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise CommandFailed(_message(error)) from error
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{self.url} does not answer: {error}") from error


def main(arguments: Sequence[str]) -> int:
    """Do one of list, add, drain, resume and remove."""
    options = _parser().parse_args(arguments)
    api = admin_api(options)
    if options.action == "list":
        return _list(options, api)
    if options.action == "add":
        found = api.ask("POST", "/admin/replicas", _description(options))
    else:
        path = f"/admin/replicas/{quote(options.id, safe='')}"
        method = "DELETE" if options.action == "remove" else "POST"
        found = api.ask(method, path if method == "DELETE" else f"{path}/{options.action}")
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        say(f"{options.action}: done")
        print(found["id"])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice replicas", description=ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    every = [actions.add_parser("list", help="show all replicas, their health and load")]
    add = actions.add_parser("add", help="adopt a replica that someone else runs")
    add.add_argument("--model", required=True, help="public id of the model that it serves")
    add.add_argument("--url", required=True, help="its base URL, such as http://node-1:30000")
    add.add_argument("--engine", help="sglang, diffusion, embedded or simulated")
    add.add_argument("--hardware", help="generation of GPU, such as mi355x")
    add.add_argument("--site", help="where it stands")
    add.add_argument("--served-name", help="the model's name inside the engine")
    add.add_argument("--max-running", type=int, help="calls that may run on it at once")
    add.add_argument("--api-key-file", type=Path, help="file that holds its API key")
    every.append(add)
    for action, text in (
        ("drain", "send nothing new to a replica"),
        ("resume", "take a drain back"),
        ("remove", "forget a replica"),
    ):
        one = actions.add_parser(action, help=text)
        one.add_argument("id", help="its id, as `sluice replicas list` shows it")
        every.append(one)
    for each in every:
        add_admin(each)
    return parser


def admin_api(options: argparse.Namespace) -> AdminApi:
    """Find the admin API: options and settings, else the `sluice up` that runs here."""
    settings = read_settings(options, {"admin_key_file": options.admin_key_file})
    data = DataDir(settings.data_dir or default_data_dir())
    running = data.read_running()
    url, key = options.admin_url, settings.admin_key
    if url is None and running is not None:
        url = running.admin_url
    if url is None:
        host = f"[{settings.admin_host}]" if ":" in settings.admin_host else settings.admin_host
        url = f"http://{host}:{settings.admin_port}"
    if urlsplit(url).scheme not in {"http", "https"}:
        raise CommandFailed(f"--admin-url: found {url!r}; allowed: http://host:port", USAGE)
    secret = read_secret(data.admin_key) if key is None else key.get_secret_value()
    if secret is None:
        raise CommandFailed("no admin key: set SLUICE_ADMIN_KEY or give --admin-key-file", USAGE)
    return AdminApi(url.rstrip("/"), secret)


def _description(options: argparse.Namespace) -> dict[str, object]:
    names = ("model", "url", "engine", "hardware", "site", "served_name", "max_running")
    body: dict[str, object] = {
        name: value for name in names if (value := getattr(options, name)) is not None
    }
    if options.api_key_file is not None:
        if (key := read_secret(options.api_key_file)) is None:
            raise CommandFailed(
                f"--api-key-file: {options.api_key_file} is missing or empty", USAGE
            )
        body["api_key"] = key
    return body


def _list(options: argparse.Namespace, api: AdminApi) -> int:
    replicas = api.ask("GET", "/admin/replicas")["data"]
    if options.json:
        print(json.dumps(replicas, indent=2))
        return 0
    head = ("ID", "MODEL", "STATE", "RUNNING", "WAITING", "ENGINE", "HARDWARE", "URL", "REASON")
    print(table([head, *map(_row, replicas)]))
    return 0


def _row(replica: dict[str, Any]) -> tuple[str, ...]:
    load, health = replica["load"], replica["health"]
    running, waiting = ("-", "-") if load is None else (str(load["running"]), str(load["waiting"]))
    return (
        *(replica["id"], replica["model"], health["state"], running, waiting),
        *(replica["engine"], replica["hardware"], replica["url"], health["reason"] or "-"),
    )


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"the admin API answered {error.code}"
