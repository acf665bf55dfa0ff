"""How do plain chunks pass by the dozen: all read, then all looked at, then all written?

A turn of the loop finds bytes of many streams. Each of the three steps is done for all of them
before the next one begins, so that its code is in the processor's caches for all but the first. A
chunk waits for the reading of MOST_AT_ONCE others at most.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from gateway.call import Receipt
from gateway.wire.dialect import StreamEditor

MOST_AT_ONCE = 64
NOTABLE = frozenset({1, MOST_AT_ONCE})  # how many have come when Chunks wants to know of it
LONGEST = 2048  # bytes of a chunk that may pass unread
LONGEST_LINE = 5  # bytes of the line that tells the size of a chunk up to LONGEST


Write = Callable[[bytes], None]


class Source(Protocol):
    """A connection to a replica."""

    def take(self, data: bytes) -> None:
        """Decode bytes and deliver what is in them."""
        ...

    def fail(self, error: Exception) -> None:
        """End the connection because of a bug of ours."""
        ...


class Way(Struct):
    """From a replica's connection to a caller's: what the plain chunks of one stream go past.

    `write` is the caller's transport's; `end` is how each of them ends on the wire, b"" while none
    may pass unread.
    """

    source: Source
    write: Write
    editor: StreamEditor
    receipt: Receipt
    end: bytes = b""

    def look(self, piece: bytes, data: bytes) -> None:
        """Learn from bytes that were decoded; `piece` is the last one of the body in them, or b"".

        Where they end with that piece and a line break, the next byte is the first of a chunk.
        """
        tail = self.editor.plain_end
        end = tail + b"\r\n"
        is_edge = tail and piece.endswith(tail) and data.endswith(end)
        self.end = end if is_edge else b""


class Chunks:
    """What has come for open streams in this turn of a loop."""

    def __init__(self) -> None:
        self.came: list[tuple[Way, bytes]] = []

    def note(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn that the first has come, or as many as are passed on together."""
        if len(self.came) < MOST_AT_ONCE:
            loop.call_soon(self.pass_on, loop)
        else:
            self.pass_on(loop)

    def pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on what has come, in order: plain chunks as they are, the rest decoded."""
        came = self.came.copy()
        self.came.clear()
        due: list[tuple[Write, bytes]] = []
        now = loop.time()
        for way, data in came:
            if (end := way.end) and data.endswith(end) and are_plain(data, end):
                way.receipt.last_byte = now
                due.append((way.write, data))
                continue
            _write(due)
            try:
                way.source.take(data)
            except Exception as error:
                way.source.fail(error)
        _write(due)


def are_plain(data: bytes, end: bytes) -> bool:
    """Whether bytes that end with `end` are whole chunks, each a frame of one line that ends so.

    `end`: the end of a frame and the line break of the chunked coding.
    """
    if data.rfind(b"\n", 0, -4) < LONGEST_LINE:  # the line that opens a chunk, and one of text
        size = len(data)
        return size < LONGEST and data.startswith(OPENINGS[size])
    *chunks, rest = data.split(end)
    if rest or data.count(b"\n") != 4 * len(chunks):
        return False
    cut = len(end)
    return all(
        (size := len(chunk) + cut) < LONGEST and chunk.startswith(OPENINGS[size])
        for chunk in chunks
    )


def opening_of(size: int) -> bytes:
    """Give the line that opens a chunk which takes so many bytes with this line and its last break.

    A line that no chunk has where none takes as many.
    """
    for digits in range(1, 4):
        inside = b"%x" % max(size - digits - 4, 0)
        if len(inside) == digits and inside != b"0":
            return inside + b"\r\n"
    return b"\n"


OPENINGS = tuple(map(opening_of, range(LONGEST)))


def _write(due: list[tuple[Write, bytes]]) -> None:
    for write, data in due:
        try:
            write(data)
        except RuntimeError:  # the caller has left in this very turn
            continue
    due.clear()
