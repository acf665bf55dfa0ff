"""Plain chunks go from replicas to callers unread, many in a turn, and no others do."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.call import Receipt
from gateway.chunks import LONGEST, MOST_AT_ONCE, Chunks, are_plain
from gateway.exchange import Exchange
from gateway.sink import Flow, Header
from gateway.stream import Stream
from gateway.upstream import Connection, OriginPool
from gateway.wire.sse import DONE, OpenAIStream
from tests.engines import STREAM_HEAD, as_chunk
from tests.gateway.calls import call

TAIL = b'"finish_reason":null}],"usage":null}\n\n'
END = TAIL + b"\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'


def frame(text: str, *, finish: str | None = None) -> bytes:
    """One content frame, as SGLang words it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice], "usage": None}) + b"\n\n"


def chunks_in(wire: bytes) -> list[bytes] | None:
    """What a chunked body holds, read by the letter; None where it does not end with a chunk."""
    found = []
    while wire:
        line, _, rest = wire.partition(b"\r\n")
        if not line or line.strip(b"0123456789abcdefABCDEF"):
            return None
        size = int(line, 16)
        if rest[size : size + 2] != b"\r\n":
            return None
        found.append(rest[:size])
        wire = rest[size + 2 :]
    return found


TEXTS = st.text(max_size=30) | st.sampled_from(["[DONE]", '"finish_reason":null', "\n\ndata: "])
PLAIN = TEXTS.map(lambda text: as_chunk(frame(text)))
OTHERS = st.sampled_from(
    [
        as_chunk(frame("a") + frame("b")),
        as_chunk(frame("", finish="stop") + frame("b")),
        as_chunk(frame("", finish="stop")),
        as_chunk(b": ping\n\n" + frame("a")),
        as_chunk(frame("x" * LONGEST)),
        as_chunk(frame("a")).replace(b"\r\n", b";name=value\r\n", 1),
        as_chunk(frame("a")[:20]) + as_chunk(frame("a")[20:]),
        b"0" + as_chunk(frame("a")),
        as_chunk(USAGE),
        as_chunk(DONE) + as_chunk(b""),
    ]
)


@settings(deadline=None)
@given(parts=st.lists(PLAIN | OTHERS, min_size=1, max_size=5), cut=st.integers(0, 400))
def test_what_passes_unread_is_whole_plain_chunks(parts: list[bytes], cut: int) -> None:
    for wire in (b"".join(parts), b"".join(parts)[cut:]):
        if wire.endswith(END) and are_plain(wire, END):
            found = chunks_in(wire)
            assert found
            assert all(each.endswith(TAIL) and each.count(b"\n\n") == 1 for each in found)


@settings(deadline=None)
@given(parts=st.lists(PLAIN, min_size=1, max_size=5))
def test_plain_chunks_pass_unread_however_many_come_at_once(parts: list[bytes]) -> None:
    assert are_plain(b"".join(parts), END)


@pytest.mark.parametrize("size", range(len(frame("")), 300))
def test_a_chunk_of_any_size_is_known_by_its_first_line(size: int) -> None:
    whole = as_chunk(frame("x" * (size - len(frame("")))))
    assert are_plain(whole, END)
    assert not are_plain(whole[1:], END)
    assert not are_plain(b"1" + whole, END)


class Transport(asyncio.Transport):
    """One end of a connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep bytes; raises RuntimeError as uvloop's does when the caller has left."""
        if self.is_gone:
            raise RuntimeError("unable to perform operation; the handler is closed")
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        """Keep bytes."""
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        """Never, until the connection is lost."""
        return False

    def abort(self) -> None:
        """Forget it."""


class Caller:
    """A sink whose pieces are chunks on a transport, like the server's own."""

    started = True

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Nothing: only the body counts here."""

    def feed_from(self, flow: Flow | None) -> None:
        """Name the outlet."""
        if flow is not None:
            flow.outlet = self.transport

    def write(self, data: bytes) -> None:
        """Write a chunk."""
        self.transport.write(as_chunk(data))

    async def finish(self, data: bytes = b"") -> None:
        """Nothing."""


class Relayed:
    """A stream on its way from a replica to a caller, without sockets."""

    def __init__(self, chunks: Chunks) -> None:
        pool = OriginPool("http://replica", chunks, idle_s=9.0, at_most=9)
        self.connection = Connection(pool, chunks)
        self.connection.connection_made(Transport())
        loop = asyncio.get_running_loop()
        self.exchange: Exchange = self.connection.start(b"", b"", loop)
        self.caller = Transport()
        sink = Caller(self.caller)
        self.receipt = Receipt(call())
        self.stream = Stream(
            OpenAIStream(wants_usage=False),
            self.exchange,
            sink,
            self.receipt,
            between_bytes_s=9.0,
            deadline=loop.time() + 9.0,
        )
        sink.feed_from(self.exchange)

    async def open(self) -> None:
        """Send the head and a first frame, and let them through."""
        self.connection.data_received(STREAM_HEAD + as_chunk(frame("first")))
        await self.stream.gate
        self.stream.open()

    def told(self) -> bytes:
        """What the caller has read."""
        found = chunks_in(self.caller.written)
        assert found is not None
        return b"".join(found)


def cut_up(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    edges = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


STREAM = st.tuples(
    st.lists(PLAIN | st.just(as_chunk(frame("a") + frame("b"))), max_size=8),
    st.lists(st.integers(min_value=1, max_value=5000), max_size=4),
    st.booleans(),
)


@settings(deadline=None)
@given(streams=st.lists(STREAM, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_streams_that_share_turns_each_arrive_whole_and_in_order(
    streams: list[tuple[list[bytes], list[int], bool]], order: Any
) -> None:
    """Each is cut anywhere or at the edges of chunks, and a turn takes pieces of any of them."""

    async def check() -> None:
        chunks = Chunks()
        ends = [as_chunk(frame("", finish="stop")), as_chunk(USAGE), as_chunk(DONE), as_chunk(b"")]
        relayed = [Relayed(chunks) for _ in streams]
        left = []
        for each, (parts, cuts, cuts_anywhere) in zip(relayed, streams, strict=True):
            await each.open()
            wire = [*parts, *ends]
            left.append(cut_up(b"".join(wire), cuts) if cuts_anywhere else wire)
        while any(left):
            for _ in range(order.randint(1, 6)):
                index = order.randrange(len(left))
                if left[index]:
                    relayed[index].connection.data_received(left[index].pop(0))
            await asyncio.sleep(0)
        for each, (parts, _, _) in zip(relayed, streams, strict=True):
            await each.stream.done
            each.stream.stop()
            sent = chunks_in(b"".join(parts))
            assert sent is not None
            expected = frame("first") + b"".join(sent) + frame("", finish="stop") + DONE
            assert each.told() == expected
            assert each.exchange.done.done()

    asyncio.run(check())


async def test_the_size_of_a_chunk_may_come_in_two_pieces() -> None:
    """What follows the first one looks like a whole chunk here, and is the inside of one."""
    relayed = Relayed(Chunks())
    await relayed.open()
    text = frame("a" * 200)
    inner = as_chunk(text)
    rest = b": ".ljust(0x1000 - 4, b"y") + b"\n\n"
    wire = b"1" + inner + rest + b"\r\n" + as_chunk(DONE) + as_chunk(b"")
    assert chunks_in(b"1" + inner + rest + b"\r\n")
    assert are_plain(inner, END)
    for piece in (wire[:1], inner, wire[1 + len(inner) :]):
        relayed.connection.data_received(piece)
        await asyncio.sleep(0)
    await relayed.stream.done
    lines = [frame("first"), text, rest, DONE]
    assert relayed.told().split() == b"".join(lines).split()  # whatever empty lines there are
    relayed.stream.stop()


async def test_plain_chunks_keep_the_form_they_have_on_the_wire() -> None:
    relayed = Relayed(Chunks())
    await relayed.open()
    for text in "abc":
        relayed.connection.data_received(as_chunk(frame(text)))
        await asyncio.sleep(0)
    both = as_chunk(frame("d")) + as_chunk(frame("e"))
    relayed.connection.data_received(both)
    await asyncio.sleep(0)
    assert relayed.caller.written.endswith(as_chunk(frame("c")) + both)
    assert relayed.receipt.last_byte is not None
    relayed.stream.stop()


async def test_nobody_waits_for_more_than_so_many_others() -> None:
    chunks = Chunks()
    relayed = [Relayed(chunks) for _ in range(MOST_AT_ONCE)]
    for each in relayed:
        await each.open()
    for each in relayed:
        assert each.told() == frame("first")
        each.connection.data_received(as_chunk(frame("a")))
    assert all(each.told() == frame("first") + frame("a") for each in relayed)
    for each in relayed:
        each.stream.stop()


async def test_what_came_before_a_connection_is_lost_goes_out_first() -> None:
    relayed = Relayed(Chunks())
    await relayed.open()
    for text in "ab":
        relayed.connection.data_received(as_chunk(frame(text)))
    relayed.connection.connection_lost(None)
    assert relayed.told() == frame("first") + frame("a") + frame("b")
    with pytest.raises(ConnectionError):
        await relayed.stream.done
    relayed.stream.stop()


async def test_a_caller_who_left_or_a_bug_in_one_stream_costs_the_others_nothing() -> None:
    chunks = Chunks()
    gone, broken, whole = streams = Relayed(chunks), Relayed(chunks), Relayed(chunks)
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    for each in streams:
        await each.open()

    async def turn(piece: bytes) -> None:
        for each in streams:
            each.connection.data_received(as_chunk(piece))
        await asyncio.sleep(0)

    def fails(_: bytes) -> bytes:
        raise ZeroDivisionError

    await turn(frame("a"))
    gone.caller.is_gone = True
    cast("Any", broken.stream.editor).feed = fails
    await turn(frame("b"))
    await turn(frame("", finish="length"))
    assert whole.told().endswith(frame("a") + frame("b") + frame("", finish="length"))
    assert broken.told().endswith(frame("a") + frame("b"))
    assert [type(each["exception"]) for each in told] == [RuntimeError, ZeroDivisionError]
    with pytest.raises(ConnectionError):
        await broken.stream.done
    for each in streams:
        each.stream.stop()
