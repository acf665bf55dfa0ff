"""What passes through a simulated engine: sequences, what happens to them, and what is counted?"""

from dataclasses import dataclass, field
from enum import StrEnum

from backends.simulated.prefixes import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine holds at once.

    `max_running` sequences decode or prefill; `max_queued` wait (None: any number); `chunk_tokens`
    of prefill fit into a step; `kv_tokens` fit into the cache. A sequence is admitted when what all
    will hold on average fits. Where SGLang has guessed wrong it retracts a sequence; here the cache
    overflows by that little instead.
    """

    max_running: int
    chunk_tokens: int
    kv_tokens: int
    max_queued: int | None = None
    prefix_cache: bool = True
    block_tokens: int = BLOCK_TOKENS


class Finish(StrEnum):
    """Why a sequence ended."""

    LENGTH = "length"
    STOP = "stop"
    ABORT = "abort"


class Phase(StrEnum):
    """Where a sequence is."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and its output: what was asked for (set at creation) and how far it is (set by the
    engine).

    `output_tokens` is how many it will make, `ends_by` why it stops there. `interval` is the number
    of tokens between events after the first token (0: no event before the last). `blocks` are the
    chained keys of the prompt's whole blocks.
    """

    prompt_tokens: int
    output_tokens: int
    interval: int = 1
    ends_by: Finish = Finish.LENGTH
    blocks: tuple[int, ...] = ()
    priority: int = 0

    phase: Phase = Phase.WAITING
    arrived_at: float = 0.0
    started_at: float = 0.0
    first_token_at: float = 0.0
    cached_tokens: int = 0
    _left: int = field(default=0, repr=False)
    _first_step: int = field(default=0, repr=False)

    @property
    def expected_tokens(self) -> int:
        """KV tokens that it holds on average while it decodes."""
        return self.prompt_tokens + (self.output_tokens + 1) // 2


@dataclass(frozen=True, slots=True)
class Event:
    """At `at` a sequence has `generated` tokens in all; `finish` says why it ended, if it did."""

    sequence: Sequence
    at: float
    generated: int
    finish: Finish | None


@dataclass(slots=True)
class Counters:
    """What the engine did since it started (cumulative; times in seconds).

    `decode_*` are over steps with decoding sequences: b is their number, t the step's time in
    microseconds, g the tokens.
    """

    steps: int = 0
    busy_s: float = 0.0
    prefill_uncached_tokens: int = 0
    prefill_cached_tokens: int = 0
    prefill_busy_s: float = 0.0
    generated_tokens: int = 0
    ended: int = 0
    aborted: int = 0
    decode_steps: int = 0
    decode_b: float = 0.0
    decode_t: float = 0.0
    decode_bb: float = 0.0
    decode_bt: float = 0.0


class QueueFull(Exception):
    """As many sequences wait as may."""
