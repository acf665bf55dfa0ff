"""How much of a prompt has this replica seen before?"""

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_TOKENS = 16


class PrefixCache:
    """The prefixes that a replica holds, as chained keys of whole blocks, least recently used out
    first.

    A key stands for its block and all before it, so a prompt's cached part ends at the first key
    that is missing.
    """

    def __init__(self, capacity_tokens: int, block_tokens: int = BLOCK_TOKENS) -> None:
        self._block_tokens = block_tokens
        self._most = max(0, capacity_tokens // block_tokens)
        self._held: OrderedDict[int, None] = OrderedDict()

    def cached_tokens(self, blocks: Sequence[int], prompt_tokens: int) -> int:
        """Count the prompt's tokens that need no prefill; its last token always needs it."""
        held = self._held
        count = 0
        for key in blocks:
            if key not in held:
                break
            held.move_to_end(key)
            count += 1
        return max(0, min(count * self._block_tokens, prompt_tokens - 1))

    def keep(self, blocks: Sequence[int]) -> None:
        """Remember a prompt whose prefill is done."""
        held = self._held
        for key in blocks:
            held[key] = None
            held.move_to_end(key)
        while len(held) > self._most:
            held.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
