"""Which calls does an engine serve in each step, and when does each step end?

Pure: instants are arguments and no clock is read, so the same engine serves over HTTP in real time
(`driver`) and in a replay in virtual time.
"""

from collections import deque

from backends.capacity import StepLaw
from backends.simulated.prefixes import PrefixCache
from backends.simulated.sequences import (
    Counters,
    EngineLimits,
    Event,
    Finish,
    Phase,
    QueueFull,
    Sequence,
)


class EngineCore:
    """Continuous batching by the step law, first come first served, in whatever time the caller
    keeps.

    `admit` puts a sequence in the queue, `step(now)` ends every step that is over by `now` and
    starts the next one, and `next_at` is the instant at which there is something to do. Steps
    follow each other without a gap, however late `step` is called; a sequence joins a step only if
    it was there when the step started. The cost of a step depends on the events in it, not on the
    number of running sequences.
    """

    def __init__(self, law: StepLaw, limits: EngineLimits) -> None:
        self.law = law
        self.limits = limits
        self.counters = Counters()
        self.resident_tokens = 0  # KV tokens of running sequences
        self.decoding = 0
        self.waiting_tokens = 0  # prompt tokens of waiting sequences
        self._waiting: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._expected = 0
        self._step = 0
        self._ends_at: float | None = None
        self._duration = 0.0
        self._chunks: list[tuple[Sequence, int]] = []
        self._step_decoding = 0
        self._due: dict[int, list[Sequence]] = {}
        self._prefixes = PrefixCache(
            limits.kv_tokens if limits.prefix_cache else 0, limits.block_tokens
        )

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that prefill or decode."""
        return len(self._prefilling) + self.decoding

    @property
    def next_at(self) -> float | None:
        """When `step` is to be called next; None while there is nothing to do."""
        if self._ends_at is not None:
            return self._ends_at
        return self._waiting[0].arrived_at if self._waiting else None

    def admit(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence; QueueFull where no more may wait. Nothing starts before the next
        `step`.
        """
        most = self.limits.max_queued
        if most is not None and len(self._waiting) >= most:
            raise QueueFull
        sequence.arrived_at = now
        self._waiting.append(sequence)
        self.waiting_tokens += sequence.prompt_tokens

    def step(self, now: float) -> list[Event]:
        """End the steps that are over by `now`, start the next; give what happened, in order."""
        events: list[Event] = []
        while True:
            if self._ends_at is not None:
                if self._ends_at > now:
                    return events
                ended_at = self._ends_at
                self._end(ended_at, events)
                start_at = ended_at
            else:
                start_at = now
            if not self._prefilling and not self.decoding:
                if not self._waiting:
                    return events
                start_at = max(start_at, self._waiting[0].arrived_at)
                if start_at > now:
                    return events
            self._begin(start_at)

    def abort(self, sequence: Sequence, now: float) -> Event | None:
        """End a sequence at once, wherever it is; None if it had ended, or never begun."""
        generated = self.generated(sequence)
        match sequence.phase:
            case Phase.ENDED:
                return None
            case Phase.WAITING:
                if sequence not in self._waiting:
                    return None  # it was refused before it could wait
                self._waiting.remove(sequence)
                self.waiting_tokens -= sequence.prompt_tokens
            case Phase.PREFILLING:
                self._prefilling.remove(sequence)
                self.resident_tokens -= sequence.prompt_tokens - sequence._left
                self._expected -= sequence.expected_tokens
            case Phase.DECODING:
                self._release(sequence, generated)
        sequence.phase = Phase.ENDED
        self.counters.aborted += 1
        return Event(sequence, now, generated, Finish.ABORT)

    def generated(self, sequence: Sequence) -> int:
        """Count the tokens that a sequence has made so far."""
        if sequence.phase is not Phase.DECODING:
            return 0
        return self._step - sequence._first_step + 1

    def forget_prefixes(self) -> bool:
        """Empty the prefix cache unless something runs or waits; say whether it was done."""
        if self.running or self._waiting:
            return False
        self._prefixes.clear()
        return True

    def _begin(self, start_at: float) -> None:
        """Fill a step with decoding and a chunk of prefill and give it its length."""
        budget = self.limits.chunk_tokens
        chunks = self._chunks
        chunks.clear()
        for sequence in self._prefilling:
            if budget <= 0:
                break
            taken = min(budget, sequence._left)
            chunks.append((sequence, taken))
            budget -= taken
        while budget > 0 and self._may_start(start_at):
            sequence = self._waiting.popleft()
            self._start(sequence, start_at)
            taken = min(budget, sequence._left)
            chunks.append((sequence, taken))
            budget -= taken
        prefill = self.limits.chunk_tokens - budget
        self._step_decoding = self.decoding
        self._duration = self.law.step_s(self.decoding, prefill, self.resident_tokens)
        self._ends_at = start_at + self._duration

    def _may_start(self, start_at: float) -> bool:
        if not self._waiting or self.running >= self.limits.max_running:
            return False
        head = self._waiting[0]
        fits = self._expected + head.expected_tokens <= self.limits.kv_tokens or not self.running
        return fits and head.arrived_at <= start_at

    def _start(self, sequence: Sequence, start_at: float) -> None:
        cached = self._prefixes.cached_tokens(sequence.blocks, sequence.prompt_tokens)
        sequence.phase = Phase.PREFILLING
        sequence.started_at = start_at
        sequence.cached_tokens = cached
        sequence._left = sequence.prompt_tokens - cached
        self.waiting_tokens -= sequence.prompt_tokens
        self.resident_tokens += cached
        self._expected += sequence.expected_tokens
        self.counters.prefill_cached_tokens += cached
        self._prefilling.append(sequence)

    def _end(self, at: float, events: list[Event]) -> None:
        """Take the results of the step in flight: a token for each decoding sequence, and the
        chunk's progress.
        """
        self._step += 1
        self._ends_at = None
        self.resident_tokens += self.decoding
        prefilled = 0
        generated = self.decoding
        for sequence, taken in self._chunks:
            if sequence.phase is not Phase.PREFILLING:
                continue  # aborted within the step
            prefilled += taken
            self.resident_tokens += taken
            sequence._left -= taken
            if sequence._left == 0:
                self._prefilling.remove(sequence)
                self._prefixes.keep(sequence.blocks)
                sequence.phase = Phase.DECODING
                sequence.first_token_at = at
                sequence._first_step = self._step
                self.decoding += 1
                generated += 1
                self._due.setdefault(self._step, []).append(sequence)
        self._count(prefilled, generated)
        due = self._due.pop(self._step, ())
        events.extend(self._advance(s, at) for s in due if s.phase is Phase.DECODING)

    def _advance(self, sequence: Sequence, at: float) -> Event:
        """Report a sequence that is due, and note when it is due again."""
        generated = self._step - sequence._first_step + 1
        if generated >= sequence.output_tokens:
            self._release(sequence, generated)
            sequence.phase = Phase.ENDED
            self.counters.ended += 1
            return Event(sequence, at, generated, sequence.ends_by)
        left = sequence.output_tokens - generated
        ahead = min(sequence.interval, left) if sequence.interval else left
        self._due.setdefault(self._step + ahead, []).append(sequence)
        return Event(sequence, at, generated, None)

    def _release(self, sequence: Sequence, generated: int) -> None:
        self.decoding -= 1
        self.resident_tokens -= sequence.prompt_tokens + generated - 1
        self._expected -= sequence.expected_tokens

    def _count(self, prefilled: int, generated: int) -> None:
        counters = self.counters
        counters.steps += 1
        counters.busy_s += self._duration
        counters.generated_tokens += generated
        if self._chunks:
            counters.prefill_uncached_tokens += prefilled
            counters.prefill_busy_s += self._duration
        if self._step_decoding:
            batch = float(self._step_decoding)
            micros = self._duration * 1e6
            counters.decode_steps += 1
            counters.decode_b += batch
            counters.decode_t += micros
            counters.decode_bb += batch * batch
            counters.decode_bt += batch * micros
