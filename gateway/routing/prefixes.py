"""How much of a prompt does each replica probably hold in its prefix cache? Approximate, bounded.

Prompts are cut into blocks of bytes; a block's key stands for it and all before it. The index notes
which replica was sent which blocks, and how much that replica had prefilled by then.
"""

from collections import OrderedDict
from collections.abc import Mapping

BLOCK_BYTES = 512
MOST_BLOCKS = 256  # per prompt; what lies behind is not looked at
MOST_KEYS = 200_000


def block_keys(body: bytes, *, block_bytes: int = BLOCK_BYTES) -> tuple[int, ...]:
    """Give the chained keys of a body's whole blocks, from its messages or prompt on.

    Keys are this process's own (Python's salted hash): they must not leave it.
    """
    start = max(body.find(b'"messages"', 0, 4096), 0) or max(body.find(b'"prompt"', 0, 4096), 0)
    end = min(len(body), start + MOST_BLOCKS * block_bytes)
    keys: list[int] = []
    key = 0
    for at in range(start, end - block_bytes + 1, block_bytes):
        key = hash((key, body[at : at + block_bytes]))
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
        self.trust = 1.0

    def __len__(self) -> int:
        return len(self._held)

    def progress(self, replica_id: str, prefilled_tokens: float, holds_tokens: float) -> None:
        """Note how many tokens a replica has prefilled since it started, and how many it holds."""
        before = self._prefilled.get(replica_id)
        if before is not None and prefilled_tokens < before[0]:
            self.forget(replica_id)  # it started again, with an empty cache
        self._prefilled[replica_id] = (prefilled_tokens, holds_tokens)

    def matched(self, keys: tuple[int, ...]) -> Mapping[str, float]:
        """Give by replica the share of these blocks that it probably holds (0 to 1, trusted)."""
        depth: dict[str, int] = {}
        alive: set[str] | None = None
        progress = self._prefilled
        for index, key in enumerate(keys, 1):
            holders = self._held.get(key)
            if holders is None:
                break
            fresh: set[str] = set()
            for replica_id, at in holders.items():
                prefilled, holds = progress.get(replica_id, (0.0, 0.0))
                if not holds or prefilled - at <= holds:  # else it has dropped the block
                    fresh.add(replica_id)
            alive = fresh if alive is None else alive & fresh
            if not alive:
                break
            for replica_id in alive:
                depth[replica_id] = index
        return {r: self.trust * blocks / len(keys) for r, blocks in depth.items()}

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

    def learn(self, expected_tokens: float, cached_tokens: float) -> None:
        """Compare what was expected to be cached with what the engine reports."""
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
