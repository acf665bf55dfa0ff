"""How do an engine's bytes become a caller's answer, and what happens when either side leaves?

One attempt on one replica: the first frame is read before anything is answered, since SGLang
reports a full queue inside a stream that began with 200. Then bytes go from the replica's socket
to the sink in one call each, and back-pressure goes the other way.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from backends.fleet import Replica
from backends.health import CallOutcome, outcome_of_status
from backends.sglang import error_of
from gateway.aborts import Aborts
from gateway.call import Call, Receipt
from gateway.engine_requests import engine_body
from gateway.errors import DeadlineExceeded, EngineFailed, GatewayError, StreamBroken
from gateway.exchange import Exchange, Head, UpstreamLost
from gateway.sink import Sink
from gateway.stream import Stream
from gateway.upstream import Upstreams
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.errors import may_try_another, translate

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
MAX_ERROR_BYTES = 1024 * 1024
LET_END_S = 2.0


class AttemptFailed(Exception):
    """Nothing has reached the caller; `again` says whether another attempt may do better.

    `blames_replica` False: the same replica may be tried again.
    """

    def __init__(self, error: GatewayError, *, again: bool, blames_replica: bool = True) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.blames_replica = blames_replica


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an attempt waits, in seconds: for a connection, a first byte, the next byte."""

    connect_s: float
    first_byte_s: float
    between_bytes_s: float


class Relay:
    """Forwards calls to replicas. `report` hears what each attempt tells of its replica."""

    def __init__(
        self,
        upstreams: Upstreams,
        patience: Patience,
        *,
        report: Callable[[str, CallOutcome], None],
    ) -> None:
        self._upstreams = upstreams
        self._patience = patience
        self._report = report
        self._aborts = Aborts(upstreams, connect_s=patience.connect_s)

    @property
    def open_cancels(self) -> int:
        """Cancellations that are still on their way to a replica."""
        return len(self._aborts)

    async def forward(
        self, call: Call, replica: Replica, sink: Sink, receipt: Receipt, headers: bytes
    ) -> None:
        """Do one attempt; raises AttemptFailed if nothing has reached the caller.

        An error after the first byte is told in the stream and by StreamBroken. A cancelled
        attempt ends the engine's work: the connection closes, and the call's rid is aborted.
        """
        loop = asyncio.get_running_loop()
        rid = f"{call.key}{receipt.attempts:02x}"
        exchange: Exchange | None = None
        try:
            exchange = await self._open(call, replica, rid, headers, loop)
            head = await self._head(exchange, call, replica, loop)
            if head.status != 200:
                raise await self._refused(exchange, head, replica, loop)
            if call.stream and head.is_stream:
                stream = await self._first_frame(call, exchange, replica, sink, receipt)
                await self._pump(stream, replica, sink, receipt)
            else:
                document = await self._document(call, exchange, replica, receipt, loop)
                await _send_document(document, sink, receipt, loop.time())
        except TimeoutError:
            self._aborts.stop(exchange, replica, call, rid)
            late = DeadlineExceeded("The answer did not come in time.")
            raise AttemptFailed(late, again=False) from None
        except BaseException:
            self._aborts.stop(exchange, replica, call, rid)
            raise

    async def _open(
        self,
        call: Call,
        replica: Replica,
        rid: str,
        headers: bytes,
        loop: asyncio.AbstractEventLoop,
    ) -> Exchange:
        body = engine_body(call, replica, rid)
        left_s = call.deadline - loop.time()
        if left_s <= 0:
            raise TimeoutError
        try:
            return await self._upstreams.of(replica).request(
                b"POST", call.path, headers, body, connect_s=min(self._patience.connect_s, left_s)
            )
        except (UpstreamLost, TimeoutError) as error:
            if loop.time() >= call.deadline:
                raise TimeoutError from error
            self._report(replica.id, CallOutcome.CONNECT_FAILED)
            raise AttemptFailed(EngineFailed("No connection to a replica."), again=True) from error

    async def _head(
        self, exchange: Exchange, call: Call, replica: Replica, loop: asyncio.AbstractEventLoop
    ) -> Head:
        """Wait for the head; the time for the first byte runs on until a stream's first frame."""
        due = min(loop.time() + self._patience.first_byte_s, call.deadline)
        exchange.expire_at(due, loop)
        try:
            return await exchange.head
        except UpstreamLost as error:
            raise self._lost(error, replica) from error
        except TimeoutError:
            raise self._late(call, replica, loop) from None

    def _late(self, call: Call, replica: Replica, loop: asyncio.AbstractEventLoop) -> Exception:
        """Tell a replica that is slow to begin from a call whose time is over."""
        if loop.time() >= call.deadline:
            return TimeoutError()
        self._report(replica.id, CallOutcome.FIRST_BYTE_TIMEOUT)
        late = DeadlineExceeded("The engine did not begin to answer in time.")
        return AttemptFailed(late, again=True)

    def _lost(self, error: UpstreamLost, replica: Replica) -> AttemptFailed:
        # A pooled connection may be closed by an idle replica just as it is used: no fault.
        if not error.reused:
            self._report(replica.id, CallOutcome.BROKEN_STREAM)
        closed = EngineFailed("The replica closed the connection.")
        return AttemptFailed(closed, again=True, blames_replica=not error.reused)

    async def _refused(
        self, exchange: Exchange, head: Head, replica: Replica, loop: asyncio.AbstractEventLoop
    ) -> AttemptFailed:
        exchange.expire_at(loop.time() + self._patience.between_bytes_s, loop)
        try:
            body = await exchange.read(MAX_ERROR_BYTES)
        except UpstreamLost as lost:
            return self._lost(lost, replica)
        self._report(replica.id, outcome_of_status(head.status))
        error = translate(error_of(head.status, body))
        return AttemptFailed(error, again=may_try_another(error))

    async def _document(
        self,
        call: Call,
        exchange: Exchange,
        replica: Replica,
        receipt: Receipt,
        loop: asyncio.AbstractEventLoop,
    ) -> bytes:
        exchange.expire_at(call.deadline, loop)
        try:
            raw = await exchange.read(MAX_DOCUMENT_BYTES)
            body, usage, reasons = await call.dialect.document(raw)
        except UpstreamLost as error:
            raise self._lost(error, replica) from error
        except EngineSaidNo as no:
            raise AttemptFailed(no.error, again=may_try_another(no.error)) from no
        self._report(replica.id, CallOutcome.OK)
        receipt.usage, receipt.finish_reasons = usage, reasons
        return body

    async def _first_frame(
        self, call: Call, exchange: Exchange, replica: Replica, sink: Sink, receipt: Receipt
    ) -> Stream:
        stream = Stream(
            call.dialect.editor(),
            exchange,
            sink,
            receipt,
            between_bytes_s=self._patience.between_bytes_s,
            deadline=call.deadline,
            coalesce_s=call.coalesce_s,
        )
        try:
            await stream.gate
        except EngineSaidNo as no:
            raise AttemptFailed(no.error, again=may_try_another(no.error)) from no
        except UpstreamLost as error:
            raise self._lost(error, replica) from error
        except TimeoutError:
            raise self._late(call, replica, asyncio.get_running_loop()) from None
        exchange.expire_at(None, asyncio.get_running_loop())  # the stream's own watch takes over
        return stream

    async def _pump(self, stream: Stream, replica: Replica, sink: Sink, receipt: Receipt) -> None:
        editor, exchange = stream.editor, stream.exchange
        receipt.status = 200
        try:
            await sink.start(
                200, (*STREAM_HEADERS, *receipt.call.limit_headers, *receipt.call.notes)
            )
            sink.feed_from(exchange)
            stream.open()
            await stream.done
            tail = await editor.close()
        except (EngineSaidNo, UpstreamLost) as error:
            if isinstance(error, UpstreamLost) and error.blames_replica:
                self._report(replica.id, CallOutcome.BROKEN_STREAM)
            broken = StreamBroken("The engine stopped before the answer was complete.")
            stream.stop()
            await sink.finish(editor.failure(broken))
            raise broken from error
        finally:
            stream.stop()
            sink.feed_from(None)
            receipt.usage, receipt.finish_reasons = editor.usage, editor.finish_reasons
        self._report(replica.id, CallOutcome.OK)
        exchange.let_end(asyncio.get_running_loop(), LET_END_S)
        await sink.finish(tail)


async def _send_document(document: bytes, sink: Sink, receipt: Receipt, now: float) -> None:
    receipt.first_byte = receipt.last_byte = now
    receipt.status = 200
    length = str(len(document)).encode()
    headers = ((b"content-type", b"application/json"), (b"content-length", length))
    await sink.start(200, (*headers, *receipt.call.limit_headers, *receipt.call.notes))
    await sink.finish(document)


STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
