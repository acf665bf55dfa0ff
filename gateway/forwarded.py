"""Where did a request come from, when a proxy that is trusted says so?

`X-Forwarded-For` is a list to which each proxy adds the address that it saw. It is read from its
end, as far as addresses of trusted proxies go: what stands before the first that is not is the word
of somebody unknown.
"""

import ipaddress
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_HOPS = 32


def caller(peer: Address, hops: Sequence[str], trusted: Sequence[Network]) -> Address:
    """Give the first address, from the end of `hops`, that is no trusted proxy's.

    What is no address ends the search: the last one that was believed holds.
    """
    found = peer
    for hop in reversed(hops[-MOST_HOPS:]):
        address = parsed(hop)
        if address is None:
            return found
        found = address
        if not is_trusted(address, trusted):
            return found
    return found


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Give the parts of all headers of a name, in their order."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [part.strip() for part in ",".join(lines).split(",")] if lines else []


def is_trusted(address: Address, trusted: Iterable[Network]) -> bool:
    """Say whether an address is in one of the networks."""
    return any(address in each for each in trusted)


def parsed(text: str) -> Address | None:
    """Read an address, with or without a port; None for anything else.

    An IPv4 address inside IPv6 is the IPv4 one, as sockets that listen on both show it.
    """
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return inner or address
