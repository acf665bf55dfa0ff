"""Whose word about a caller's address is taken?"""

from ipaddress import ip_network
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.config import ConfigError, load
from gateway.forwarded import MOST_HOPS
from gateway.middleware import Forwarded

TRUSTED = tuple(ip_network(each) for each in ("10.0.0.0/8", "127.0.0.1", "fd00::/8"))


async def seen(peer: str | None, *headers: tuple[str, str], trusted: Any = TRUSTED) -> Any:
    """Give the client and scheme that the application sees."""
    found: list[Any] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        found.append((None if scope["client"] is None else scope["client"][0], scope["scheme"]))

    async def nothing() -> Message:
        raise AssertionError

    scope = {
        "type": "http",
        "scheme": "http",
        "client": None if peer is None else (peer, 1234),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    await Forwarded(app, trusted)(scope, nothing, nothing)  # type: ignore[arg-type]
    return found[0]


FOR, PROTO = "x-forwarded-for", "x-forwarded-proto"


async def test_nobody_is_believed_who_is_not_named() -> None:
    told = ((FOR, "192.0.2.9"), (PROTO, "https"))
    assert await seen("198.51.100.7", *told) == ("198.51.100.7", "http")
    assert await seen("10.0.0.1", *told, trusted=()) == ("10.0.0.1", "http")
    assert await seen(None, *told) == (None, "http")  # a Unix socket has no address


async def test_a_trusted_proxy_names_the_caller() -> None:
    told = ((FOR, "192.0.2.9"), (PROTO, "https"))
    assert await seen("10.0.0.1", *told) == ("192.0.2.9", "https")
    assert await seen("::ffff:10.0.0.1", *told) == ("192.0.2.9", "https")
    assert await seen("fd00::1", (FOR, "[2001:db8::5]:443")) == ("2001:db8::5", "http")


@pytest.mark.parametrize(
    ("hops", "caller"),
    [
        # What a caller has written itself stands before its address, which the proxy saw.
        ("127.0.0.1, 192.0.2.9", "192.0.2.9"),
        ("203.0.113.1, 192.0.2.9, 10.1.1.1", "192.0.2.9"),
        ("10.2.2.2, 10.1.1.1", "10.2.2.2"),
        ("192.0.2.9:5000", "192.0.2.9"),
        ("unknown", "10.0.0.1"),
        ("192.0.2.9, nonsense, 10.1.1.1", "10.1.1.1"),
        ("", "10.0.0.1"),
        (",".join(["192.0.2.9"] + ["10.1.1.1"] * MOST_HOPS), "10.1.1.1"),
    ],
)
async def test_the_caller_is_the_last_that_no_trusted_proxy_is(hops: str, caller: str) -> None:
    assert (await seen("10.0.0.1", (FOR, hops)))[0] == caller


async def test_several_headers_are_one_list() -> None:
    assert (await seen("10.0.0.1", (FOR, "203.0.113.1"), (FOR, "192.0.2.9")))[0] == "192.0.2.9"


@pytest.mark.parametrize("scheme", ["ftp", "", "https\t,javascript"])
async def test_a_scheme_is_one_of_two(scheme: str) -> None:
    assert (await seen("10.0.0.1", (PROTO, scheme)))[1] == "http"


def test_the_setting_takes_addresses_and_networks(tmp_path: Any) -> None:
    path = tmp_path / "sluice.yaml"
    path.write_text("forwarded: {trusted: [10.0.0.0/8, '::1']}\n")
    assert load(path, {}).forwarded.trusted == (ip_network("10.0.0.0/8"), ip_network("::1"))
    path.write_text("forwarded: {trusted: [proxy]}\n")
    with pytest.raises(ConfigError, match=r"forwarded\.trusted.*10\.0\.0\.0/8"):
        load(path, {})
