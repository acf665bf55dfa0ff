"""What does not fit is told in the words by which clients know what to cut."""

import pytest

from gateway.wire.overflow import Overflow, read_overflow

SGLANG = (
    "Requested token count exceeds the model's maximum context length of 32768 tokens. You "
    "requested a total of 39414 tokens: 7414 tokens from the input messages and 32000 tokens for "
    "the completion. Please reduce the number of tokens in the input messages or the completion "
    "to fit within the limit."
)


@pytest.mark.parametrize(
    ("said", "overflow"),
    [
        (SGLANG, Overflow(32768, 7414, 32000)),
        (
            "The input (40000 tokens) is longer than the model's context length (32768 tokens).",
            Overflow(32768, 40000),
        ),
        ("max_tokens is too large: 99999.", None),
    ],
)
def test_an_engines_words_are_read(said: str, overflow: Overflow | None) -> None:
    assert read_overflow(said) == overflow


@pytest.mark.parametrize("overflow", [Overflow(32768, 7414, 32000), Overflow(32768, 40000)])
def test_openais_words_hold_all_of_it(overflow: Overflow) -> None:
    assert read_overflow(overflow.in_openais_words()) == overflow
