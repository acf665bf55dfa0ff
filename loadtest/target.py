"""Where is an endpoint, and how is a request to it written?"""

import socket
import ssl
from typing import Any
from urllib.parse import urlsplit


class Target:
    """An endpoint's address, resolved once: `http(s)://host[:port][/path]`.

    Raises ValueError for other URLs, OSError when the name does not resolve.
    """

    def __init__(self, base_url: str, *, verify: bool = True) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"not an http(s) URL: {base_url!r}")
        self.host = url.hostname
        self.port = url.port or (443 if url.scheme == "https" else 80)
        self.path = url.path.rstrip("/")
        self.netloc = url.netloc.rpartition("@")[2]
        self.tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            self.tls = ssl.create_default_context()
            if not verify:
                self.tls.check_hostname = False
                self.tls.verify_mode = ssl.CERT_NONE
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        self.family: int = found[0][0]
        self.address: Any = found[0][4]

    def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        """Write a whole request; `path` is below the base URL's."""
        lines = [f"{method} {self.path}{path} HTTP/1.1", f"Host: {self.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
