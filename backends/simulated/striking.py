"""Which calls does a fault strike, and what becomes of their frames?"""

import random

from backends.simulated.calls import Call
from backends.simulated.settings import Faults


class Striker:
    """Draws the faults of one replica."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._random = random.Random(faults.seed)

    def hits(self, rate: float) -> bool:
        """Say whether a fault of that rate strikes now."""
        return rate > 0.0 and self._random.random() < rate

    def stream_fault(self) -> "StreamStrike | None":
        """Give the fault that will strike the next stream, if one is set and drawn."""
        faults = self.faults
        planned = (
            faults.hang_after_frames,
            faults.die_after_frames,
            faults.error_after_frames,
            faults.abort_after_frames,
        )
        if all(p is None for p in planned) or not self.hits(faults.stream_rate):
            return None
        return StreamStrike(faults)


class StreamStrike:
    """Lets so many frames of a stream pass, then does what was planned."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._passed = 0

    def strike(self, call: Call, frames: bytes) -> bytes:
        """Give the frames that are still to be written."""
        kept: list[bytes] = []
        for frame in frames.split(b"\n\n")[:-1]:
            if self._strikes_now():
                if kept:
                    call.send(b"".join(kept))
                self._act(call)
                return b""
            kept.append(frame + b"\n\n")
            self._passed += 1
        return b"".join(kept)

    def _strikes_now(self) -> bool:
        faults = self._faults
        return self._passed in (
            faults.hang_after_frames,
            faults.die_after_frames,
            faults.error_after_frames,
            faults.abort_after_frames,
        )

    def _act(self, call: Call) -> None:
        faults = self._faults
        if self._passed == faults.hang_after_frames:
            call.silent = True
        elif self._passed == faults.die_after_frames:
            call.cut()
        elif self._passed == faults.error_after_frames:
            call.fail("Internal error of the engine.")
        else:
            call.end_as_aborted(shown=self._passed > 0)
