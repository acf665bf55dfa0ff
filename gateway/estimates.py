"""How many tokens is a prompt before anybody has counted it, and how many will its answer have?

Bytes stand for prompt tokens, corrected per model by what engines report; answers are guessed from
what the same tenant got from the same model lately. Pure: state is held in objects of bounded size.
"""

import bisect
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import Struct

from backends.capacity import Mix
from gateway.call import Usage

BYTES_PER_TOKEN = 4.0
LEAST_BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 0.5, 64.0
OUTPUT_TOKENS = 256.0
MEMORY = 64.0  # a mean forgets over about so many calls
MOST_KEYS = 10_000

# Upper edges of the sketch's buckets: 8 per doubling, so that a quantile is off by 5 % at most.
_PER_DOUBLING = 8
_BUCKETS = 21 * _PER_DOUBLING
_EDGES = tuple(2.0 ** (step / _PER_DOUBLING) for step in range(1, _PER_DOUBLING))

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class TokenRatio:
    """Prompt tokens of one model by the bytes of a body: a line through what was counted lately.

    `tokens = mean + slope * (bytes - mean bytes)`; a body has bytes that are no prompt, and a chat
    template adds tokens that are no bytes. Until sizes have differed, tokens are in proportion to
    bytes, at 4 bytes per token to begin with. Means forget over about 64 calls.
    """

    seen: int = 0
    mean_bytes: float = 0.0
    mean_tokens: float = 0.0
    _variance: float = 0.0
    _covariance: float = 0.0

    def tokens(self, size_bytes: int) -> float:
        """Guess the tokens of a body; at least one."""
        if not self.seen:
            return max(1.0, size_bytes / BYTES_PER_TOKEN)
        guess = self.mean_tokens + self._slope() * (size_bytes - self.mean_bytes)
        return min(max(guess, size_bytes / MOST_BYTES_PER_TOKEN, 1.0), 2.0 * size_bytes + 64.0)

    def learn(self, size_bytes: int, prompt_tokens: int) -> None:
        """Take in what an engine counted; a count that cannot be is passed over."""
        if prompt_tokens <= 0 or size_bytes <= 0:
            return
        if not LEAST_BYTES_PER_TOKEN <= size_bytes / prompt_tokens <= MOST_BYTES_PER_TOKEN:
            return
        self.seen += 1
        weight = max(1.0 / self.seen, 1.0 / MEMORY)
        off_bytes, off_tokens = size_bytes - self.mean_bytes, prompt_tokens - self.mean_tokens
        self.mean_bytes += weight * off_bytes
        self.mean_tokens += weight * off_tokens
        keep = 1.0 - weight
        self._variance = keep * (self._variance + weight * off_bytes * off_bytes)
        self._covariance = keep * (self._covariance + weight * off_bytes * off_tokens)

    def _slope(self) -> float:
        proportional = self.mean_tokens / self.mean_bytes
        if self.seen < 8 or self._variance < (0.05 * self.mean_bytes) ** 2:
            return proportional
        return min(max(self._covariance / self._variance, 0.25 * proportional), 4.0 * proportional)


@dataclass(slots=True)
class Sketch:
    """Counts of positive values in buckets of equal ratio; old values fade.

    Quantiles are within 5 % of the true ones; 168 counters hold values up to 2 million.
    """

    counts: list[float] = field(default_factory=lambda: [0.0] * _BUCKETS)
    total: float = 0.0
    sum: float = 0.0
    squares: float = 0.0
    _unit: float = 1.0

    def add(self, value: float) -> None:
        """Count a value; the weight of all older ones shrinks by 1/256."""
        unit = self._unit = self._unit * (256.0 / 255.0)
        self.counts[_bucket(value)] += unit
        self.total += unit
        self.sum += unit * value
        self.squares += unit * value * value
        if unit > 1e9:
            self._rescale()

    @property
    def mean(self) -> float:
        """The weighted mean; 0 where nothing was counted."""
        return self.sum / self.total if self.total else 0.0

    @property
    def spread(self) -> float:
        """The mean square over the squared mean: 1 where all are alike."""
        return self.squares * self.total / self.sum**2 if self.sum else 1.0

    def quantile(self, share: float) -> float:
        """Give the value that `share` of the counted ones do not exceed; 0 without any."""
        wanted, found = share * self.total, 0.0
        for index, count in enumerate(self.counts):
            found += count
            if found >= wanted and count:
                return float(2.0 ** ((index + 0.5) / _PER_DOUBLING))
        return 0.0

    def _rescale(self) -> None:
        self.counts = [c / self._unit for c in self.counts]
        self.total /= self._unit
        self.sum /= self._unit
        self.squares /= self._unit
        self._unit = 1.0


def _bucket(value: float) -> int:
    if value <= 1.0:
        return 0
    mantissa, exponent = math.frexp(value)  # value = mantissa * 2**exponent, mantissa in [0.5, 1)
    within = bisect.bisect_right(_EDGES, 2.0 * mantissa)
    return min((exponent - 1) * _PER_DOUBLING + within, _BUCKETS - 1)


class Size(Struct, frozen=True, gc=False):
    """A call in tokens, as guessed: its prompt, and its answer."""

    prompt_tokens: float
    output_tokens: float


@dataclass(slots=True)
class _Answers:
    sketch: Sketch = field(default_factory=Sketch)
    expected: float = OUTPUT_TOKENS


class Estimates:
    """What one gateway has learnt of the sizes of calls; at most 10,000 (tenant, model) pairs.

    The least recently used pair goes first; a pair without a history takes the model's, a model
    without one takes 256 tokens.
    """

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._ratios: OrderedDict[str, TokenRatio] = OrderedDict()
        self._prefilled: OrderedDict[str, Sketch] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], _Answers] = OrderedDict()
        self._most_keys = most_keys
        self._asked: tuple[str, str, int, int | None] | None = None
        self._guessed = Size(1.0, 1.0)

    def size(self, tenant: str, model: str, size_bytes: int, max_tokens: int | None) -> Size:
        """Guess a call's size from its body; the answer is at most `max_tokens`.

        Whoever counts a call and whoever plans it ask the same, one after the other.
        """
        asked = (tenant, model, size_bytes, max_tokens)
        if asked == self._asked:
            return self._guessed
        ratio = self._ratios.get(model)
        prompt = size_bytes / BYTES_PER_TOKEN if ratio is None else ratio.tokens(size_bytes)
        known = self._answers.get((tenant, model)) or self._answers.get(("", model))
        output = OUTPUT_TOKENS if known is None else known.expected
        if max_tokens is not None:
            output = min(output, max_tokens)
        self._asked, self._guessed = asked, Size(max(prompt, 1.0), max(output, 1.0))
        return self._guessed

    def mix(self, model: str) -> Mix | None:
        """Give the mean call of a model over all tenants; None before any was counted.

        Input tokens are those that were not in a cache.
        """
        known, prefilled = self._answers.get(("", model)), self._prefilled.get(model)
        if known is None or prefilled is None:
            return None
        return Mix(max(prefilled.mean, 1.0), max(known.sketch.mean, 1.0), known.sketch.spread)

    def output_quantile(self, tenant: str, model: str, share: float) -> float:
        """Give a quantile of a tenant's answers, in tokens; 0 without a history."""
        known = self._answers.get((tenant, model))
        return 0.0 if known is None else known.sketch.quantile(share)

    def learn(self, tenant: str, model: str, size_bytes: int, usage: Usage) -> None:
        """Take in what an engine counted."""
        self._asked = None
        self._ratio(model).learn(size_bytes, usage.prompt_tokens)
        uncached = _touch(self._prefilled, model, Sketch, self._most_keys)
        uncached.add(max(usage.prompt_tokens - usage.cached_tokens, 1))
        if usage.completion_tokens > 0:
            for who in ("", tenant):
                answers = self._of(who, model)
                answers.sketch.add(usage.completion_tokens)
                # A mean would be enough for work; the median of a skewed history is too kind.
                answers.expected = answers.sketch.mean

    def _ratio(self, model: str) -> TokenRatio:
        return _touch(self._ratios, model, TokenRatio, self._most_keys)

    def _of(self, tenant: str, model: str) -> _Answers:
        return _touch(self._answers, (tenant, model), _Answers, self._most_keys)


def _touch(held: OrderedDict[K, V], key: K, make: type[V], most: int) -> V:
    found = held.get(key)
    if found is None:
        found = held[key] = make()
        if len(held) > most:
            held.popitem(last=False)
    else:
        held.move_to_end(key)
    return found
