"""How do an engine's events become the bytes of one answer?"""

import asyncio
from typing import Protocol

from backends.simulated.driver import Driver
from backends.simulated.orders import Choice, Order
from backends.simulated.refusals import QueueIsFull, Refusal, error_frame
from backends.simulated.sequences import Event, Finish, QueueFull, Sequence

_BUFFERED_BYTES = 256 * 1024  # a reader who is this far behind is given larger chunks, later


class Dialect(Protocol):
    """How one route's answers look; every method gives whole SSE frames (or nothing)."""

    def opening(self, call: "Call", choice: Choice) -> bytes:
        """Give what precedes a choice's first token."""
        ...

    def delta(self, call: "Call", choice: Choice, start: int, end: int) -> bytes:
        """Give the tokens from `start` up to `end` of a choice."""
        ...

    def closing(self, call: "Call") -> bytes:
        """Give what follows the last choice's last token, [DONE] included."""
        ...

    def refusal(self, refusal: Refusal) -> bytes:
        """Give a whole stream that says no."""
        ...

    def unary(self, call: "Call") -> bytes:
        """Give the body of an answer that is not streamed, once all choices have ended."""
        ...


class StreamFault(Protocol):
    """What may strike a stream."""

    def strike(self, call: "Call", frames: bytes) -> bytes:
        """Give the frames that are still to be written."""
        ...


class Progress:
    """How far one choice is. It knows its call by being told: a call that is over leaves no circle
    of references, and a replica pauses for no collection of garbage.
    """

    __slots__ = ("choice", "finish", "generated", "opened", "shown")

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.generated = 0
        self.shown = 0
        self.opened = False
        self.finish: Finish | None = None

    @property
    def visible(self) -> int:
        """Tokens that show text: all but the end of text."""
        choice = self.choice
        return min(self.generated, choice.sequence.output_tokens - choice.silent_end)


class Call:
    """One generating request from its admission to its last byte.

    Frames are handed to the connection as they come, all of one step in one write and without
    waking a task; `started` is set with the first of them (SGLang sends its headers with the first
    token) and `ended` with the last.
    """

    def __init__(
        self, order: Order, dialect: Dialect, driver: Driver, fault: StreamFault | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.order = order
        self.progress = [Progress(choice) for choice in order.choices]
        self.started: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.heads: dict[int, bytes] = {}  # beginnings of frames, kept by the dialect
        self.silent = False  # nothing more is written, though the connection stays
        self.is_cut = False  # the connection is to be dropped
        self._dialect = dialect
        self._driver = driver
        self._fault = fault
        self._open = len(order.choices)
        self._pending = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._chunked = True

    def start(self) -> None:
        """Put all choices in the engine's queue; QueueIsFull (a stream carries it in a frame)
        where they may not wait.
        """
        for progress in self.progress:
            try:
                self._driver.submit(progress.choice.sequence, self)
            except QueueFull:
                self.cancel()
                self.refuse(QueueIsFull())
                return

    def refuse(self, refusal: Refusal) -> None:
        """Answer no: by a frame in a stream, by raising otherwise."""
        if not self.order.stream:
            raise refusal
        self._pending = bytearray(self._dialect.refusal(refusal))
        self._finish()

    def on_event(self, event: Event) -> None:
        """Take the engine's news of a choice's sequence, and write what is to be written."""
        progress = self._progress_of(event.sequence)
        progress.generated = event.generated
        progress.finish = event.finish
        if progress.finish is not None:
            self._open -= 1
        if self.order.stream and not self.ended.done():
            frames = self._frames(progress)
            if frames:
                self._write(frames)
        if self._open == 0:
            self._finish()

    def abort(self) -> None:
        """End all choices as aborted; the caller is told in the way of the route."""
        for progress in self.progress:
            self._driver.abort(progress.choice.sequence)

    def cancel(self) -> None:
        """End all choices and write nothing more."""
        self.silent = True
        self.abort()
        self.silent = False

    def take(self) -> bytes:
        """Give the frames so far, for whoever sends the headers."""
        taken = bytes(self._pending)
        self._pending.clear()
        return taken

    def attach(self, transport: asyncio.WriteTransport, *, chunked: bool) -> None:
        """Write all further frames to a connection, as chunks of HTTP/1.1 or plain."""
        self._transport = transport
        self._chunked = chunked
        if self.is_cut:
            transport.abort()
        elif self._pending:
            self._put(self.take())

    def answer(self) -> bytes:
        """Give the body of a unary answer."""
        return self._dialect.unary(self)

    def fail(self, message: str) -> None:
        """Write an error frame and the end, whatever the engine does."""
        self.send(error_frame(message, "INTERNAL_SERVER_ERROR", 500) + b"data: [DONE]\n\n")
        self.cancel()
        self._finish()

    def cut(self) -> None:
        """Drop the connection without a word, at once or as soon as it is known."""
        self.silent = True
        self.is_cut = True
        if self._transport is not None:
            self._transport.abort()
        elif not self.started.done():
            self.started.set_result(None)

    def end_as_aborted(self, *, shown: bool) -> None:
        """End the stream as if the engine had aborted it just now; `shown`: after some tokens."""
        self.cancel()
        opening = b""
        for progress in self.progress:
            progress.finish = Finish.ABORT
            progress.generated = progress.shown if shown else 0
            if not shown:
                opening += self._dialect.opening(self, progress.choice)
        self.send(opening + self._dialect.closing(self))
        self._finish()

    def _progress_of(self, sequence: Sequence) -> Progress:
        if len(self.progress) == 1:
            return self.progress[0]
        return next(each for each in self.progress if each.choice.sequence is sequence)

    def _frames(self, progress: Progress) -> bytes:
        parts = []
        if not progress.opened:
            progress.opened = True
            parts.append(self._dialect.opening(self, progress.choice))
        if progress.finish is None and self._is_behind():
            return b"".join(parts)
        visible = progress.visible
        if visible > progress.shown or progress.finish is not None:
            parts.append(self._dialect.delta(self, progress.choice, progress.shown, visible))
            progress.shown = visible
        if self._open == 0:
            parts.append(self._dialect.closing(self))
        return b"".join(parts)

    def _is_behind(self) -> bool:
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > _BUFFERED_BYTES

    def _write(self, frames: bytes) -> None:
        if self.silent:
            return
        if self._fault is not None:
            frames = self._fault.strike(self, frames)
            if not frames:
                return
        self.send(frames)

    def send(self, frames: bytes) -> None:
        """Write frames, or keep them until there is a connection to write to."""
        if self._transport is None:
            self._pending += frames
            if not self.started.done():
                self.started.set_result(None)
        else:
            self._put(frames)

    def _put(self, frames: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._chunked else frames)

    def _finish(self) -> None:
        if self.silent:
            return
        for future in (self.started, self.ended):
            if not future.done():
                future.set_result(None)
