"""What text does a simulated model read and write, and in how many tokens?

A token is four bytes of UTF-8 on the way in; on the way out it is a space and a word of three
letters, so the text that a model wrote counts the same when it is read again.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Protocol

TOKEN_BYTES = 4
EOS_ID = 2

_WORDS = (
    "act add age air all and any arm art ask bag bar bay bed big bit box bus buy can car cat cup "
    "cut day dew dig dog "
    "dry due ear eat egg end eye far few fit fly fog for fun gap gas get gold hat hen her hit hot "
    "ice ink inn jam jar "
    "jet job joy key kit lab law leg let lid log lot low map may mix mud net new nod nut oak oar "
    "odd off oil old one "
    "our out owl own pan paw pay pen pet pie pin pot put ray red rib rim row rug run sad saw say "
    "sea see set she sit "
    "six sky son sum sun tab tan tax tea ten the tie tin tip toe ton too top toy two urn use van "
    "vow war was wax way"
)
_VOCABULARY = tuple(w for w in _WORDS.split() if len(w) == 3)
_CYCLE = 4096  # words before the sequence of one seed repeats


def count_tokens(text: str) -> int:
    """Count the tokens of a text: a token per four bytes, at least one."""
    return max(1, -(-len(text.encode()) // TOKEN_BYTES))


def token_ids(text: str) -> list[int]:
    """Give the ids of a text's tokens; `detokenize` turns them back."""
    raw = text.encode()
    return [
        int.from_bytes(raw[i : i + TOKEN_BYTES], "big") for i in range(0, len(raw), TOKEN_BYTES)
    ]


def detokenize(ids: Sequence[int]) -> str:
    """Give the text of token ids; ids that are no text become replacement characters."""
    raw = b"".join(i.to_bytes(max(1, (i.bit_length() + 7) // 8), "big") for i in ids)
    return raw.decode(errors="replace")


def block_keys(prompt: bytes, block_tokens: int, salt: str = "") -> tuple[int, ...]:
    """Give a key per whole block of a prompt, each of which stands for all text before its end."""
    size = block_tokens * TOKEN_BYTES
    key = hash(salt)
    keys = []
    for start in range(0, len(prompt) - size + 1, size):
        key = hash((key, prompt[start : start + size]))
        keys.append(key)
    return tuple(keys)


def seed_of(*parts: object) -> int:
    """Give a number that depends on the parts' text alone, in every process the same."""
    joined = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(joined.encode(), digest_size=8).digest(), "big")


def draw_output_tokens(seed: int, mean: float, sigma: float) -> int:
    """Draw a lognormal output length with the given mean, the same for the same seed; at least 2
    (one and its end).
    """
    location = math.log(mean) - sigma**2 / 2
    return max(2, round(random.Random(seed).lognormvariate(location, sigma)))


class Script(Protocol):
    """What a sequence will say, by token."""

    def text(self, start: int, end: int) -> str:
        """Give the text of the tokens from `start` up to `end`."""
        ...


class Dictionary:
    """The words of all seeds: one shuffled cycle, in which each seed begins somewhere else."""

    def __init__(self) -> None:
        words = random.Random(0).choices(_VOCABULARY, k=_CYCLE)
        self._spaced = tuple(f" {w}" for w in words)

    def script(self, seed: int) -> Script:
        """Give the text that a seed leads to."""
        return WordScript(self._spaced, seed % _CYCLE)


class WordScript:
    """Words without end, beginning at an offset of the cycle."""

    __slots__ = ("_offset", "_words")

    def __init__(self, words: tuple[str, ...], offset: int) -> None:
        self._words = words
        self._offset = offset

    def text(self, start: int, end: int) -> str:
        """Give the text of the tokens from `start` up to `end`; the very first has no space
        before it.
        """
        words = self._words
        if end - start == 1:
            text = words[(self._offset + start) % _CYCLE]
        else:
            text = "".join(words[(self._offset + i) % _CYCLE] for i in range(start, end))
        return text[1:] if start == 0 else text


class FixedScript:
    """A given text, four characters to a token."""

    __slots__ = ("_text", "tokens")

    def __init__(self, text: str) -> None:
        self._text = text
        self.tokens = max(1, -(-len(text) // TOKEN_BYTES))

    def text(self, start: int, end: int) -> str:
        """Give the text of the tokens from `start` up to `end`."""
        return self._text[start * TOKEN_BYTES : end * TOKEN_BYTES]


class CutScript:
    """A script of which only the first `length` characters are shown (a stop string ended it)."""

    __slots__ = ("_text", "tokens")

    def __init__(self, script: Script, tokens: int, length: int) -> None:
        pieces = [script.text(i, i + 1) for i in range(tokens)]
        shown: list[str] = []
        for piece in pieces:
            shown.append(piece[: max(0, length)])
            length -= len(piece)
        self._text = shown
        self.tokens = tokens

    def text(self, start: int, end: int) -> str:
        """Give the shown text of the tokens from `start` up to `end`."""
        return "".join(self._text[start:end])
