"""Where does an HTTP/1.1 response end, and what is its body, at the least cost per piece?

Made for streams of small chunks: a piece that holds whole chunks costs one `find`, one `int` and
one slice each. Bodies go to `on_body`, a method that subclasses override.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class MalformedResponse(ValueError):
    """The server sent what is not HTTP/1.1."""


class Response(ABC):
    """A response as it arrives: feed it bytes until it is complete.

    `status` is 0 until the head was read. `reusable` tells whether the connection may carry another
    request.
    """

    __slots__ = (
        "_chunked",
        "_held",
        "_left",
        "_until_close",
        "complete",
        "headers",
        "reusable",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self.reusable = True
        self._held = b""
        self._left = 0  # bytes of the current chunk, or of the whole body, still to come
        self._chunked = False
        self._until_close = False

    @abstractmethod
    def on_body(self, piece: bytes, now_ns: int) -> None:
        """Take a piece of the body."""

    @abstractmethod
    def on_complete(self, now_ns: int) -> None:
        """Take note that the body has ended as it should."""

    def feed(self, data: bytes, now_ns: int) -> bool:
        """Take bytes read at `now_ns`; tell whether the response is complete.

        Raises MalformedResponse.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        if not self.status:
            rest = self._head(data)
            if rest is None:
                return False
            data = rest
        if self._chunked:
            self._read_chunks(data, now_ns)
        elif self._until_close:
            if data:
                self.on_body(data, now_ns)
        else:
            self._read_length(data, now_ns)
        return self.complete

    def closed(self, now_ns: int) -> bool:
        """Take note that the server closed; tell whether that was a proper end."""
        if self._until_close and self.status and not self.complete:
            self._end(now_ns)
        return self.complete

    def _end(self, now_ns: int) -> None:
        self.complete = True
        self.on_complete(now_ns)

    def _head(self, data: bytes) -> bytes | None:
        """Read the head; give what follows it, None if it is not whole yet. Skips 1xx responses."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > 65536:
                    raise MalformedResponse("a response head over 64 KiB")
                self._held = data
                return None
            lines = data[:end].split(b"\r\n")
            data = data[end + 4 :]
            parts = lines[0].split(b" ", 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
                raise MalformedResponse(f"not an HTTP status line: {lines[0][:80]!r}")
            status = int(parts[1])
            if status >= 200:
                break
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            self.headers[name.strip().lower()] = value.strip()
        self.status = status
        self._frame(parts[0])
        return data

    def _frame(self, version: bytes) -> None:
        """Decide how the body ends."""
        connection = self.headers.get(b"connection", b"").lower()
        self.reusable = version != b"HTTP/1.0" and b"close" not in connection
        if b"chunked" in self.headers.get(b"transfer-encoding", b"").lower():
            self._chunked = True
        elif b"content-length" in self.headers:
            length = self.headers[b"content-length"]
            if not length.isdigit():
                raise MalformedResponse(f"content-length {length[:20]!r}")
            self._left = int(length)
        elif self.status in (204, 304):
            self._left = 0
        else:
            self._until_close = True
            self.reusable = False

    def _read_length(self, data: bytes, now_ns: int) -> None:
        piece = data[: self._left]
        self._left -= len(piece)
        if piece:
            self.on_body(piece, now_ns)
        if self._left == 0:
            self._end(now_ns)

    def _read_chunks(self, data: bytes, now_ns: int) -> None:
        """Take chunk framing off. `_left` > 0: within a chunk; < 0: that many bytes of CRLF are due
        after it.
        """
        at, size = 0, len(data)
        while at < size:
            left = self._left
            if left > 0:
                piece = data[at : at + left]
                at += len(piece)
                self._left = left - len(piece) or -2
                self.on_body(piece, now_ns)
                continue
            if left < 0:
                step = min(-left, size - at)
                at += step
                self._left = left + step
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._held = data[at:]
                if len(self._held) > 4096:
                    raise MalformedResponse("a chunk size over 4 KiB long")
                return
            length = self._chunk_size(data[at:line_end])
            start = line_end + 2
            if length == 0:
                self._trailers(data[line_end:], now_ns)
                return
            stop = start + length
            if stop + 2 <= size:
                self.on_body(data[start:stop], now_ns)
                at = stop + 2
            else:
                at = start
                self._left = length

    def _chunk_size(self, line: bytes) -> int:
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise MalformedResponse(f"not a chunk size: {line[:40]!r}") from None

    def _trailers(self, data: bytes, now_ns: int) -> None:
        """Skip trailers up to the empty line; `data` starts at the line end of the last chunk's
        size.
        """
        if data.find(b"\r\n\r\n") < 0:
            self._held = b"0" + data
            return
        self._end(now_ns)


class Whole(Response):
    """A response whose body is kept."""

    __slots__ = ("body",)

    def __init__(self) -> None:
        super().__init__()
        self.body = b""

    def on_body(self, piece: bytes, now_ns: int) -> None:
        """Keep the piece."""
        self.body += piece

    def on_complete(self, now_ns: int) -> None:
        """The body is whole."""
