"""What happens to each chunk of a stream on its way from a replica to a caller?"""

import asyncio

from gateway.call import Receipt
from gateway.exchange import Exchange, UpstreamLost
from gateway.sink import Sink
from gateway.wire.dialect import EngineSaidNo, StreamEditor


class Stream:
    """The per-chunk path of one stream: bytes in, frames out, no task in between.

    `gate` is done when the first frame that counts is there; `done` when the engine has ended.
    With `coalesce_s` above 0 what comes within that time of a held piece goes out with it: fewer
    system calls for fewer, larger chunks. The first token and the last are never held.
    """

    def __init__(
        self,
        editor: StreamEditor,
        exchange: Exchange,
        sink: Sink,
        receipt: Receipt,
        *,
        between_bytes_s: float,
        deadline: float,
        coalesce_s: float = 0.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.editor = editor
        self.exchange = exchange
        self._sink = sink
        self._receipt = receipt
        self._between_bytes_s = between_bytes_s
        self._deadline = deadline
        self._coalesce_s = coalesce_s
        self._held: list[bytes] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None
        self.gate: asyncio.Future[None] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        exchange.attach(self._take)
        exchange.done.add_done_callback(self._ended)

    def open(self) -> None:
        """Let bytes through to the sink, first those that were held."""
        self._is_open = True
        self.exchange.attach(self._pass)
        self._flush()
        if not self._coalesce_s:
            self.exchange.lead(self.editor, self._receipt)
        self._watch()

    def stop(self) -> None:
        """Let nothing through any more; what came before goes."""
        if self._is_open:
            self._flush()
        self._is_open = False
        self.exchange.stop_leading()
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, data: bytes) -> None:
        """Take a piece until the gate is open and the head is out: what it gives is held."""
        receipt = self._receipt
        self._pass(data)
        if self.editor.started and not self.gate.done():
            receipt.first_byte = receipt.last_byte
            if receipt.on_first_byte is not None:
                receipt.on_first_byte()
            self.gate.set_result(None)

    def _pass(self, data: bytes) -> None:
        """Take a piece: all that happens to a chunk happens here."""
        receipt = self._receipt
        receipt.last_byte = self._loop.time()
        try:
            out = self.editor.feed(data)
        except EngineSaidNo as no:
            return self._fail(no)
        if out:
            if self._is_open and not self._coalesce_s:
                self._sink.write(out)
            else:
                self._hold(out)
        if self.editor.ended and not self.done.done():
            if self._is_open:
                self._flush()
            self.done.set_result(None)
        return None

    def _hold(self, out: bytes) -> None:
        self._held.append(out)
        if self._is_open and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._coalesce_s, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._held:
            self._sink.write(b"".join(self._held))
            self._held.clear()

    def _ended(self, done: "asyncio.Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._fail(error)
        elif not self.editor.ended:
            self._fail(UpstreamLost("the stream ended before its last frame"))

    def _fail(self, error: BaseException) -> None:
        for future in (self.gate, self.done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: only one of the two is awaited

    def _watch(self) -> None:
        """Look again whenever the stream could have become too silent or too old."""
        now = self._loop.time()
        silent_at = (self._receipt.last_byte or now) + self._between_bytes_s
        due = min(silent_at, self._deadline)
        if due <= now:
            # A caller who does not read makes a stream silent, too: no fault of the replica's.
            at_fault = silent_at <= now and not self.exchange.is_paused
            why = "the stream fell silent or took too long"
            self._fail(UpstreamLost(why, blames_replica=at_fault))
        elif not self.done.done():
            self._timer = self._loop.call_at(due, self._watch)
