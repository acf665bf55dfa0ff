"""Who may call the gateway? Keys are made, listed and closed in the store itself."""

import argparse
import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from redis import RedisError

from backends.clock import SystemClock
from backends.store import connect
from gateway.audit import Audit, AuditFailed
from gateway.call import Quota
from gateway.cli.data_dir import DataDir
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.options import (
    add_config,
    add_data_dir,
    add_redis_url,
    default_data_dir,
    read_settings,
    say,
)
from gateway.keys import Grant, KeyRecord, KeyStore
from gateway.settings import Settings

ABOUT = (
    "Create, list and revoke the keys by which callers are known. They are kept in the "
    "store itself."
)

T = TypeVar("T")

_LIMITS = {
    "requests_per_min": "most requests per minute",
    "tokens_per_min": "most tokens of prompts and answers per minute",
    "concurrency": "most calls at once",
    "tokens_per_day": "most tokens per day (UTC)",
    "tokens_per_month": "most tokens per month (UTC)",
}
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def main(arguments: Sequence[str]) -> int:
    """Do one of create, list and revoke."""
    options = _parser().parse_args(arguments)
    settings = read_settings(options)
    url = store_url(settings)
    match options.action:
        case "create":
            return _create(options, settings, url)
        case "list":
            return _list(options, url)
        case _:
            return _revoke(options, settings, url)


def store_url(settings: Settings) -> str:
    """Find the store: what the settings say, else the one of the `sluice up` that runs here."""
    if settings.redis_url is not None:
        return settings.redis_url
    data = DataDir(settings.data_dir or default_data_dir())
    if (running := data.read_running()) is not None:
        return running.redis_url
    raise CommandFailed(
        "no store: give --redis-url, set REDIS_URL, or start `sluice up`"
        f" (none runs with the data directory {data.path})",
        USAGE,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice keys", description=ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--name", default="", help="what people call it")
    create.add_argument("--tenant", default="default", help="whose budget it spends")
    create.add_argument("--models", type=_names, metavar="A,B", help="models that it opens")
    create.add_argument("--classes", type=_names, metavar="A,B", help="classes that it may ask for")
    create.add_argument(
        "--default-class", metavar="NAME", help="class of a call that asks for none"
    )
    create.add_argument(
        "--expires", metavar="WHEN", help="30d, 12h, or an instant such as 2027-01-31T12:00+01:00"
    )
    for name, text in _LIMITS.items():
        create.add_argument(f"--{name.replace('_', '-')}", type=_count, metavar="N", help=text)
    show = actions.add_parser("list", help="show all keys, none of them whole")
    revoke = actions.add_parser("revoke", help="close a key for good")
    revoke.add_argument("id", help="the 8 characters after `sk-sluice-`")
    for each in (create, show, revoke):
        each.add_argument("--json", action="store_true", help="print JSON")
        add_redis_url(each)
        add_config(each)
        add_data_dir(each)
    return parser


def _create(options: argparse.Namespace, settings: Settings, url: str) -> int:
    now = SystemClock().now()
    grant = Grant(
        name=options.name,
        tenant=options.tenant,
        models=options.models,
        classes=options.classes,
        default_class=options.default_class,
        expires_at=None if options.expires is None else expiry(options.expires, now=now),
        quota=Quota(**{name: getattr(options, name) for name in _LIMITS}),
    )
    _check_classes(grant, settings)
    key, record = _with_store(url, lambda keys: keys.create(grant))
    _note(settings, "key.create", record)
    if options.json:
        print(json.dumps({**record.shown(), "key": key}, indent=2))
    else:
        say(f"key {record.id} for tenant {grant.tenant}; it is shown this once:")
        print(key)
    return 0


def _list(options: argparse.Namespace, url: str) -> int:
    records = _with_store(url, lambda keys: keys.list())
    if options.json:
        print(json.dumps([each.shown() for each in records], indent=2))
        return 0
    head = ("ID", "NAME", "TENANT", "MODELS", "CLASSES", "CREATED", "STATE")
    rows = (_row(each, now=SystemClock().now()) for each in records)
    print(table([head, *rows]))
    return 0


def _revoke(options: argparse.Namespace, settings: Settings, url: str) -> int:
    record = _with_store(url, lambda keys: keys.revoke(options.id))
    if record is None:
        raise CommandFailed(f"no key with the id {options.id!r}")
    _note(settings, "key.revoke", record)
    if options.json:
        print(json.dumps(record.shown(), indent=2))
    else:
        say(f"key {record.id} is closed; gateways notice within seconds")
    return 0


def _with_store(url: str, act: Callable[[KeyStore], Awaitable[T]]) -> T:
    async def run() -> T:
        redis = connect(url)
        try:
            return await act(KeyStore(redis, SystemClock()))
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except (RedisError, OSError, ValueError) as error:
        raise CommandFailed(f"the store does not answer: {error}") from error


def _note(settings: Settings, action: str, record: KeyRecord) -> None:
    """Keep what was done in the file of the settings; what is done stands without it, too."""
    file = Audit(settings.audit_file, SystemClock())
    try:
        asyncio.run(
            file.append(action, f"uid{os.getuid()}", key_id=record.id, tenant=record.grant.tenant)
        )
    except AuditFailed as error:
        say(f"warning: audit_file: {error}")


def _check_classes(grant: Grant, settings: Settings) -> None:
    asked = [*(grant.classes or ()), *([grant.default_class] if grant.default_class else ())]
    for name in asked:
        if name not in settings.classes:
            raise CommandFailed(
                f"unknown class {name!r}; allowed: {', '.join(settings.classes)}", USAGE
            )
    if grant.classes is not None and grant.default_class not in {None, *grant.classes}:
        raise CommandFailed("--default-class must be one of --classes", USAGE)


def expiry(text: str, *, now: float) -> float:
    """Read a span from `now` or an instant; give Unix seconds. Without a zone it is UTC."""
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return now + timedelta(**{_UNITS[found[2]]: int(found[1])}).total_seconds()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"--expires: found {text!r}; allowed: 30d, 12h, 45m, 2w or 2027-01-31T12:00", USAGE
        ) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    if instant.timestamp() <= now:
        raise CommandFailed(f"--expires: {text} is in the past", USAGE)
    return instant.timestamp()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(record: KeyRecord, *, now: float) -> tuple[str, ...]:
    grant = record.grant
    if record.revoked_at is not None:
        state = f"revoked {_day(record.revoked_at)}"
    elif record.is_expired(now):
        state = f"expired {_day(grant.expires_at or 0.0)}"
    else:
        state = "open" if grant.expires_at is None else f"until {_day(grant.expires_at)}"
    models, classes = (
        "all" if names is None else ",".join(sorted(names)) or "none"
        for names in (grant.models, grant.classes)
    )
    created = _day(record.created_at)
    return (record.id, grant.name or "-", grant.tenant, models, classes, created, state)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M")


def _names(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not names or any(" " in name for name in names):
        raise argparse.ArgumentTypeError("name at least one, separated by commas")
    return names


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("a whole number, not negative")
    return int(text)
