"""What would a controller get that knows everything? The measure for the gateway's own.

It knows each engine's law, each call's size and what runs where at the instant, keeps one queue in
the order of deadlines in front of all engines, and drops what can no longer be in time.
"""

import heapq
from collections.abc import Sequence

from backends.capacity import Mix, StepLaw, steady_step_s
from backends.simulated import sequences as engine
from backends.slo import Class
from bench.slo_world import MODEL, Engines, Run, Sent, Tally, Workload

MARGINS = (0.85, 0.9, 0.95)  # of the TPOT limit that the mean step may take; the best one counts
PREFILL_SHARE = 0.42  # of the TTFT limit that prompts in flight on an engine may take together


class Ideal(Engines):
    """Engines behind one queue that knows everything."""

    def __init__(
        self,
        laws: Sequence[StepLaw],
        mix: Mix,
        klass: Class,
        *,
        margin: float,
        seed: int = 1,
        rtt_s: Sequence[float] = (),
    ) -> None:
        super().__init__(laws, seed=seed, rtt_s=rtt_s)
        self._laws = laws
        self._targets = klass.targets(MODEL)
        ttft_s, tpot_s = self._targets.ttft_s or 60.0, self._targets.tpot_s or 1.0
        self._ttft_s = ttft_s
        self._most = [_most(law, mix, margin * tpot_s) for law in laws]
        self._bound = [PREFILL_SHARE * ttft_s / law.prefill_token_s for law in laws]
        self._running = [0] * len(laws)
        self._prefill = [0] * len(laws)
        self._queue: list[tuple[float, str, Run]] = []
        self._on: dict[str, int] = {}

    def call(self, sent: Sent) -> None:
        """Let one call arrive now."""
        run = self._enter(sent)
        heapq.heappush(self._queue, (self.time.t + self._ttft_s, run.call.key, run))
        self._dispatch()

    def _dispatch(self) -> None:
        while self._queue:
            due, key, run = self._queue[0]
            index = self._free(run)
            if index is None:
                return
            heapq.heappop(self._queue)
            law = self._laws[index]
            takes_s = law.c0_s + law.prefill_token_s * run.sent.prompt
            if self.time.t + self.rtt_s[index] + takes_s > due:
                self._refuse(run, "too_late")
                continue
            self._on[key] = index
            self._running[index] += 1
            self._prefill[index] += run.sent.prompt
            self._send(run, index)

    def _free(self, run: Run) -> int | None:
        free = [
            i
            for i, most in enumerate(self._most)
            if self._running[i] < most
            and (not self._prefill[i] or self._prefill[i] + run.sent.prompt <= self._bound[i])
        ]
        return min(free, key=lambda i: (self._running[i] + 1) / self._most[i], default=None)

    def _first(self, run: Run) -> None:
        run.receipt.first_byte = self.time.t
        self._prefill[self._on[run.call.key]] -= run.sent.prompt
        self._dispatch()

    def _ended(self, run: Run, event: engine.Event) -> None:
        self._running[self._on.pop(run.call.key)] -= 1
        self._count(run, event)
        self._dispatch()


def ideal(
    laws: Sequence[StepLaw],
    per_s: float,
    workload: Workload,
    klass: Class,
    *,
    warm_s: float = 20.0,
    seconds: float = 60.0,
    seed: int = 1,
    rtt_s: Sequence[float] = (),
) -> Tally:
    """Give what the ideal controller gets at a rate, with the best of its margins."""
    best: Tally | None = None
    for margin in MARGINS:
        world = Ideal(laws, workload.mix, klass, margin=margin, seed=seed, rtt_s=rtt_s)
        world.pass_by(per_s, workload, warm_s, seconds)
        tally = world.tallies[klass.name]
        if best is None or tally.good > best.good:
            best = tally
    if best is None:
        raise ValueError("no margin to try")
    return best


def _most(law: StepLaw, mix: Mix, step_s: float) -> int:
    """Give how many calls of the mix an engine may run at a mean step."""
    each_s = steady_step_s(law, mix, 1.0) - law.c0_s
    return max(1, int((step_s - law.c0_s) / each_s))
