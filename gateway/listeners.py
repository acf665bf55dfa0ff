"""Where does a gateway process listen?"""

import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a gateway listens."""

    base_url: str
    admin_url: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Listeners:
    """The bound sockets of one process."""

    public: socket.socket
    admin: socket.socket


def listeners_of(settings: Settings, stack: AsyncExitStack) -> Listeners:
    """Bind the sockets that are asked for, until the stack unwinds. Raises OSError."""
    public = listen(settings.host, settings.port)
    stack.callback(public.close)
    admin = listen(settings.admin_host, settings.admin_port)
    stack.callback(admin.close)
    return Listeners(public, admin)


def bound_to(settings: Settings, public: socket.socket, admin: socket.socket) -> Bound:
    """Say where these sockets listen."""
    scheme = "http" if settings.tls.cert_file is None else "https"
    at = _url(settings.host, public.getsockname()[1], scheme)
    admin_at = _url(settings.admin_host, admin.getsockname()[1])
    return Bound(f"{at}/v1", admin_at, f"{at}/metrics")


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind a socket; `shared`: others of this user may bind to the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


def _url(host: str, port: int, scheme: str = "http") -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 shown, not bound
    return (
        f"{scheme}://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"
    )
