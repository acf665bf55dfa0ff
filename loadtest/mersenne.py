"""What do C++'s `std::mt19937`, `std::shuffle` and integer draws give for a seed?

LoadGen is C++ and its schedules depend on the standard library. This follows GNU libstdc++ from
version 11 on (two indices per draw in `std::shuffle`, Lemire's reduction in
`std::uniform_int_distribution`), which is what the `mlcommons-loadgen` wheel is built with.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = 1 << 32
_BLOCK = 1 << 14


class Mt19937:
    """A `std::mt19937`: 32-bit words, seeded as C++ seeds it (the seed modulo 2**32)."""

    __slots__ = ("_at", "_bits", "_block")

    def __init__(self, seed: int) -> None:
        # RandomState seeds a single integer with the generator's own init_genrand, as C++ does.
        self._bits = np.random.MT19937()
        state: Any = np.random.RandomState(seed % _WORD).get_state(legacy=False)
        self._bits.state = state
        self._block: list[int] = []
        self._at = 0

    def word(self) -> int:
        """Draw one word, 0 to 2**32 - 1."""
        if self._at == len(self._block):
            self._block = self._bits.random_raw(_BLOCK).tolist()
            self._at = 0
        value = self._block[self._at]
        self._at += 1
        return value

    def words(self, count: int) -> NDArray[np.uint64]:
        """Draw `count` words at once."""
        held = np.array(self._block[self._at : self._at + count], dtype=np.uint64)
        self._at += len(held)
        fresh = self._bits.random_raw(count - len(held))
        return np.concatenate((held, fresh.astype(np.uint64)))

    def below(self, bound: int) -> int:
        """Draw an integer, 0 to `bound` - 1 (1 <= bound < 2**32), by Lemire's reduction."""
        product = self.word() * bound
        low = product % _WORD
        if low < bound:
            threshold = (_WORD - bound) % bound
            while low < threshold:
                product = self.word() * bound
                low = product % _WORD
        return product >> 32

    def shuffle(self, items: MutableSequence[int]) -> None:
        """Shuffle in place as `std::shuffle` does."""
        count = len(items)
        if count < 2:
            return
        if (_WORD - 1) // count < count:
            for i in range(1, count):
                j = self.below(i + 1)
                items[i], items[j] = items[j], items[i]
            return
        start = 1
        if count % 2 == 0:
            j = self.below(2)
            items[1], items[j] = items[j], items[1]
            start = 2
        for i in range(start, count, 2):
            first, second = divmod(self.below((i + 1) * (i + 2)), i + 2)
            items[i], items[first] = items[first], items[i]
            items[i + 1], items[second] = items[second], items[i + 1]
