"""How is something fetched that a caller names, without being led into our own network?

A name is resolved once, every address is checked, and the connection goes to that very address: an
answer that changes between check and use leads nowhere. Redirects are checked like the first URL.
"""

import asyncio
import base64
import binascii
import ipaddress
import socket
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.errors import InvalidRequest

MOST_REDIRECTS = 3
MOST_URL_CHARS = 8192
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", 0),
    (b"\xff\xd8\xff", 0),
    (b"WEBP", 8),
    (b"GIF8", 0),
)


class ForbiddenAddress(OSError):
    """The address belongs to a private network, or to none at all."""


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses alone."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses of a name; raises ForbiddenAddress if one of them is not public."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for each_family, _, proto, _, address in found:
            if not self._allow_private and not is_public(str(address[0])):
                raise ForbiddenAddress(f"{host} is not on a public network")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=int(address[1]),
                    family=each_family,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing to close."""


def is_public(address: str) -> bool:
    """Whether an address is one that anybody on the Internet could reach."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None:
            return is_public(str(inner))
        if found in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast and not found.is_reserved


def public_session(*, allow_private: bool, timeout_s: float) -> aiohttp.ClientSession:
    """Give a client that reaches public addresses alone; no cookies, no environment proxies."""
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(allow_private=allow_private), use_dns_cache=False, limit=16
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(5.0, timeout_s)),
        trust_env=False,
    )


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise ValueError for a URL that is not http(s) or names a private address."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an http or https URL")
    if parts.username or parts.password:
        raise ValueError("a URL without a login")
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        return  # a name: the resolver checks what it stands for
    if not allow_private and not is_public(parts.hostname):
        raise ValueError("a URL on a public network")


async def fetch_image(url: str, *, most_bytes: int, timeout_s: float, allow_private: bool) -> bytes:
    """Fetch an image by http(s) or out of a data URL. Raises InvalidRequest."""
    if url.startswith("data:"):
        return image_of(_data_url(url, most_bytes), most_bytes=most_bytes)
    try:
        if len(url) > MOST_URL_CHARS:
            raise ValueError(f"a URL of up to {MOST_URL_CHARS} characters")
        async with asyncio.timeout(timeout_s):
            data = await _get(url, most_bytes, timeout_s, allow_private)
    except ValueError as error:
        raise _refused(f"{error} is needed") from None
    except (aiohttp.ClientError, OSError, TimeoutError):
        raise _refused("it could not be fetched") from None
    return image_of(data, most_bytes=most_bytes)


async def _get(url: str, most_bytes: int, timeout_s: float, allow_private: bool) -> bytes:
    async with public_session(allow_private=allow_private, timeout_s=timeout_s) as session:
        for _ in range(MOST_REDIRECTS + 1):
            check_url(url, allow_private=allow_private)
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, answer.headers.get("location", ""))
                    continue
                if answer.status != 200:
                    raise ValueError(f"an address that answers 200, not {answer.status},")
                data = bytearray()
                async for piece in answer.content.iter_any():
                    data += piece
                    if len(data) > most_bytes:
                        raise ValueError(f"an image of up to {most_bytes} bytes")
                return bytes(data)
    raise ValueError(f"a URL with at most {MOST_REDIRECTS} redirects")


def _data_url(url: str, most_bytes: int) -> bytes:
    head, comma, body = url[5:].partition(",")
    if not comma or len(body) > most_bytes * 4 // 3 + 8:
        raise _refused(f"a data URL of up to {most_bytes} bytes is needed")
    try:
        if head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise _refused("the data URL is not sound") from None


def image_of(data: bytes, *, most_bytes: int) -> bytes:
    """Give the bytes back if they are an image (PNG, JPEG, WebP, GIF). Raises InvalidRequest."""
    if len(data) > most_bytes:
        raise _refused(f"an image of up to {most_bytes} bytes is needed")
    if not any(data[place : place + len(magic)] == magic for magic, place in _IMAGES):
        raise _refused("a PNG, JPEG, WebP or GIF image is needed")
    return data


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'input_reference': {why}.", param="input_reference")
