"""How much of a prompt does each replica probably hold in its prefix cache? Approximate, bounded.

Prompts are cut into blocks of bytes that grow with their depth; a block's key stands for it and all
before it. The index notes which replica was sent which blocks, and how much that replica had
prefilled by then.
"""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

BLOCK_BYTES = 512
# Up to where blocks are so long: a block's end loses an eighth of what precedes it at most.
_LENGTHS = ((16_384, BLOCK_BYTES), (65_536, 2_048), (524_288, 8_192))
EDGES = (
    0,
    *(
        end
        for (start, _), (stop, length) in pairwise(((0, 0), *_LENGTHS))
        for end in range(start + length, stop + 1, length)
    ),
)
MOST_BLOCKS = len(EDGES) - 1  # per prompt: 512 kB, about 128,000 tokens; what lies behind is missed
MOST_KEYS = 200_000
MEMORY_TOKENS = 1e6  # prompts that the share of reuse is of, about


def block_keys(body: bytes, salt: object = None) -> tuple[int, ...]:
    """Give the chained keys of a body's whole blocks, from its messages or prompt on.

    Engines share nothing between prompts of different `salt`. Keys are this process's own (Python's
    salted hash): they must not leave it.
    """
    start = max(body.find(b'"messages"', 0, 4096), 0) or max(body.find(b'"prompt"', 0, 4096), 0)
    size = len(body) - start
    keys: list[int] = []
    key = hash(salt) if salt else 0
    for begin, end in pairwise(EDGES):
        if end > size:
            break
        key = hash((key, body[start + begin : start + end]))
        keys.append(key)
    return tuple(keys)


class PrefixIndex:
    """Which replica has seen which prompt prefixes.

    Bounded: the least recently used keys go first. Aged: a replica that has since prefilled more
    tokens than its cache holds has dropped the block. What engines report as cached corrects the
    whole (`trust`): expectations of a fleet that caches less than thought shrink.
    """

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._held: OrderedDict[int, dict[str, float]] = OrderedDict()
        self._most_keys = most_keys
        self._prefilled: dict[str, tuple[float, float]] = {}  # tokens so far, tokens it can hold
        self._prompt_tokens = 0.0  # of the last calls, fading
        self._cached_tokens = 0.0
        self.trust = 1.0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def reuse(self) -> float:
        """The share of prompt tokens that engines found in their caches lately; 0 without any."""
        return self._cached_tokens / self._prompt_tokens if self._prompt_tokens else 0.0

    def progress(self, replica_id: str, prefilled_tokens: float, holds_tokens: float) -> None:
        """Note how many tokens a replica has prefilled since it started, and how many it holds."""
        before = self._prefilled.get(replica_id)
        if before is not None and prefilled_tokens < before[0]:
            self.forget(replica_id)  # it started again, with an empty cache
        self._prefilled[replica_id] = (prefilled_tokens, holds_tokens)

    def matched(self, keys: tuple[int, ...], body_bytes: int) -> Mapping[str, float]:
        """Give by replica the share of a body that it probably holds (0 to 1, trusted)."""
        depth: dict[str, int] = {}
        alive: list[str] | None = None
        progress = self._prefilled
        for index, key in enumerate(keys, 1):
            holders = self._held.get(key)
            if holders is None:
                break
            fresh: list[str] = []
            for replica_id in holders if alive is None else alive:
                at = holders.get(replica_id)
                prefilled, holds = progress.get(replica_id, (0.0, 0.0))
                if at is not None and (not holds or prefilled - at <= holds):  # not dropped since
                    fresh.append(replica_id)
            alive = fresh
            if not alive:
                break
            for replica_id in alive:
                depth[replica_id] = index
        return {r: self.trust * EDGES[blocks] / body_bytes for r, blocks in depth.items()}

    def sent(self, replica_id: str, keys: tuple[int, ...]) -> None:
        """Note that a replica was given a prompt."""
        at = self._prefilled.get(replica_id, (0.0, 0.0))[0]
        held = self._held
        for key in keys:
            holders = held.get(key)
            if holders is None:
                held[key] = {replica_id: at}
            else:
                holders[replica_id] = at
                held.move_to_end(key)
        while len(held) > self._most_keys:
            held.popitem(last=False)

    def learn(self, expected_tokens: float, cached_tokens: float, prompt_tokens: float) -> None:
        """Compare what was expected to be cached with what the engine reports."""
        kept = max(0.0, 1.0 - prompt_tokens / MEMORY_TOKENS)
        self._prompt_tokens = kept * self._prompt_tokens + prompt_tokens
        self._cached_tokens = kept * self._cached_tokens + min(cached_tokens, prompt_tokens)
        if expected_tokens < 64:
            return
        ratio = min(cached_tokens / expected_tokens, 1.5)
        self.trust = min(1.0, max(0.0, self.trust + 0.02 * (ratio * self.trust - self.trust)))
        if cached_tokens:
            self.trust = max(self.trust, 0.05)

    def forget(self, replica_id: str) -> None:
        """Drop all that a replica was thought to hold."""
        for holders in self._held.values():
            holders.pop(replica_id, None)
