"""Does the proxy of compose.yaml find all gateways, and pass on what it should?

HAProxy is a real one. The gateways are stand-ins on loopback addresses of their own, found by a
name server such as Docker's is.
"""

import asyncio
import shutil
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from tests.deploy.files import ROOT, run
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="needs haproxy (Debian's package)"
)
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@dataclass
class Gateway:
    """One stand-in; `go_on` lets its streams end."""

    address: str
    is_ready: bool = True
    dies: bool = False
    headers: list[dict[str, str]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self, _: web.Request) -> web.Response:
        """Answer /readyz."""
        return web.Response(status=200 if self.is_ready else 503)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a call."""
        if self.dies and request.transport is not None:
            request.transport.close()
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        return web.Response(text=self.address)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send one chunk, and another when told so."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(self.address.encode())
        await self.go_on.wait()
        await answer.write(b" end")
        return answer


@dataclass
class Names(asyncio.DatagramProtocol):
    """A name server that knows the gateways' addresses, and nothing of IPv6."""

    addresses: tuple[str, ...] = ADDRESSES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go through."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is no subclass

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question, of which the name begins at byte 12."""
        end = data.index(b"\0", 12) + 5
        question, (kind,) = data[12:end], struct.unpack_from(">H", data, end - 4)
        found = self.addresses if kind == 1 else ()
        records = [
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(each)
            for each in found
        ]
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0)
        self._transport.sendto(head + question + b"".join(records), addr)


@dataclass(frozen=True)
class Site:
    """The proxy's URL, what stands behind it, and who names it."""

    url: str
    gateways: tuple[Gateway, ...]
    names: Names

    async def spread(self, session: aiohttp.ClientSession, calls: int = 30) -> set[str]:
        """Call some times; give who answered."""
        found = Counter[str]()
        for _ in range(calls):
            async with session.get(f"{self.url}/v1/models") as answer:
                found[await answer.text()] += answer.status == 200
        return {address for address, count in found.items() if count}


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    """Run the configuration of compose.yaml with other ports, and with our name server."""
    async with AsyncExitStack() as stack:
        port, bind = _free(ADDRESSES[0]), _free("127.0.0.1")
        gateways = tuple(Gateway(each) for each in ADDRESSES)
        for each in gateways:
            app = web.Application()
            app.router.add_get("/readyz", each.ready)
            app.router.add_get("/stream", each.stream)
            app.router.add_get("/{path:.*}", each.answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, each.address, port).start()
        transport, names = await asyncio.get_running_loop().create_datagram_endpoint(
            Names, local_addr=("127.0.0.1", 0)
        )
        stack.callback(transport.close)
        text = (ROOT / "compose/haproxy.cfg").read_text()
        for ours, theirs in (
            ("127.0.0.11:53", f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"),
            ("bind :8080", f"bind 127.0.0.1:{bind}"),
            ("gateway:8000", f"gateway:{port}"),
            ("fd-hard-limit 80100", "maxconn 200"),
        ):
            assert text.count(ours) == 1, ours
            text = text.replace(ours, theirs)
        config = directory / "haproxy.cfg"
        config.write_text(text)
        process = await asyncio.create_subprocess_exec(
            "haproxy", "-f", str(config), stdout=asyncio.subprocess.DEVNULL
        )
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        found = Site(f"http://127.0.0.1:{bind}", gateways, names)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await eventually(lambda: _all_are_found(found, session), within_s=30)
        yield found


async def _all_are_found(site: Site, session: aiohttp.ClientSession) -> bool:
    try:
        return await site.spread(session) == set(ADDRESSES)
    except aiohttp.ClientError:
        return False


def _free(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("name", ["haproxy.cfg", "docker-proxy.cfg"])
def test_a_configuration_is_valid(name: str) -> None:
    run("haproxy", "-c", "-f", str(ROOT / "compose" / name))


async def test_calls_go_to_every_gateway_that_is_ready_and_to_no_other(tmp_path: Path) -> None:
    async with site(tmp_path) as found, aiohttp.ClientSession() as session:
        found.gateways[1].is_ready = False
        others = {ADDRESSES[0], ADDRESSES[2]}

        async def only_others() -> bool:
            return await found.spread(session) == others

        await eventually(only_others, within_s=30)
        found.gateways[1].is_ready = True
        await eventually(lambda: _all_are_found(found, session), within_s=30)


async def test_without_a_ready_gateway_the_proxy_says_so_in_the_api_s_words(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as found, aiohttp.ClientSession() as session:
        for each in found.gateways:
            each.is_ready = False

        async def is_told() -> bool:
            async with session.get(f"{found.url}/v1/models") as answer:
                if answer.status != 503:
                    return False
                assert answer.headers["retry-after"] == "5"
                error = (await answer.json())["error"]
                assert set(error) == {"message", "type", "param", "code"}
                return bool(error["code"] == "no_gateway")

        await eventually(is_told, within_s=30)


async def test_a_gateway_that_dies_before_it_answers_is_told_in_the_api_s_words(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as found, aiohttp.ClientSession() as session:
        for each in found.gateways:
            each.dies = True
        async with session.get(f"{found.url}/v1/models") as answer:
            assert answer.status == 502
            assert (await answer.json())["error"]["code"] == "gateway_lost"


async def test_a_gateway_that_is_scaled_away_is_forgotten(tmp_path: Path) -> None:
    async with site(tmp_path) as found, aiohttp.ClientSession() as session:
        found.names.addresses = ADDRESSES[:1]

        async def only_the_first() -> bool:
            return await found.spread(session) == set(ADDRESSES[:1])

        await eventually(only_the_first, within_s=30)


async def test_a_stream_comes_as_it_is_sent_and_outlives_its_gateway_s_readiness(
    tmp_path: Path,
) -> None:
    async with (
        site(tmp_path) as found,
        aiohttp.ClientSession() as session,
        session.get(f"{found.url}/stream") as answer,
    ):
        first = (await answer.content.readany()).decode()
        mine = next(each for each in found.gateways if each.address == first)
        mine.is_ready = False

        async def is_left_alone() -> bool:
            return first not in await found.spread(session)

        await eventually(is_left_alone, within_s=30)
        mine.go_on.set()
        assert await answer.read() == b" end"


async def test_metrics_are_hidden_and_what_callers_say_of_themselves_is_replaced(
    tmp_path: Path,
) -> None:
    lies = {"Forwarded": "for=1.2.3.4", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https"}
    async with site(tmp_path) as found, aiohttp.ClientSession() as session:
        async with session.get(f"{found.url}/metrics") as answer:
            assert answer.status == 404
            assert (await answer.json())["error"]["code"] == "unknown_url"
        for each in found.gateways:
            each.headers.clear()
        async with session.get(f"{found.url}/v1/models", headers=lies) as answer:
            assert answer.status == 200
        (heard,) = [seen for each in found.gateways for seen in each.headers]
        assert "forwarded" not in heard
        assert heard["x-forwarded-for"] == "127.0.0.1"
        assert heard["x-forwarded-proto"] == "http"
