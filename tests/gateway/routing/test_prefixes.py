"""Who has seen this prompt's beginning? Bounded, aged, and corrected by what engines report."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.prefixes import BLOCK_BYTES, EDGES, MOST_BLOCKS, PrefixIndex, block_keys


def body(*texts: str) -> bytes:
    return b'{"model":"m","messages":[' + ",".join(texts).encode() + b"]}"


SYSTEM = "s" * 4 * BLOCK_BYTES


def test_prompts_share_the_keys_of_their_common_beginning() -> None:
    one, two = block_keys(body(SYSTEM, "a" * 2000)), block_keys(body(SYSTEM, "b" * 2000))
    common = [x for x, y in zip(one, two, strict=False) if x == y]
    assert one[: len(common)] == two[: len(common)]
    assert len(common) == 4
    assert not {*one[4:]} & {*two[4:]}


def test_fields_before_the_messages_do_not_matter() -> None:
    other = body(SYSTEM).replace(b'"model":"m"', b'"temperature":0.5,"model":"m"')
    assert block_keys(other) == block_keys(body(SYSTEM))


def test_prompts_of_tenants_that_engines_keep_apart_share_nothing() -> None:
    one, two = (block_keys(body(SYSTEM), salt) for salt in ("a", "b"))
    assert not {*one} & {*two}
    assert block_keys(body(SYSTEM), "a") == one


def test_a_short_prompt_has_no_keys_and_a_long_one_not_too_many() -> None:
    assert block_keys(body("hi")) == ()
    assert len(block_keys(b"x" * 10**6)) == MOST_BLOCKS < 200


def test_blocks_grow_with_their_depth_and_lose_an_eighth_at_most() -> None:
    lengths = [end - begin for begin, end in pairwise(EDGES)]
    assert lengths == sorted(lengths)
    assert lengths[0] == BLOCK_BYTES
    assert EDGES[-1] == 512 * 1024
    assert all(end - begin <= max(BLOCK_BYTES, begin / 8) for begin, end in pairwise(EDGES))


def test_the_share_that_a_replica_holds_ends_at_the_first_unknown_block() -> None:
    index = PrefixIndex()
    keys = block_keys(body("x" * 8 * BLOCK_BYTES))
    index.sent("a", keys)
    index.sent("b", keys[:4])
    found = index.matched(keys, 8 * BLOCK_BYTES)
    assert found["a"] == 1.0
    assert found["b"] == 4 / len(keys)
    assert index.matched((1, *keys), 9 * BLOCK_BYTES) == {}


def test_what_lies_behind_the_last_key_is_not_taken_to_be_held() -> None:
    index = PrefixIndex()
    text = b"x" * 2 * 512 * 1024
    index.sent("a", block_keys(text))
    assert index.matched(block_keys(text), len(text)) == {"a": 0.5}


def test_a_replica_that_has_prefilled_its_whole_cache_since_has_forgotten() -> None:
    index = PrefixIndex()
    index.progress("a", 1_000, 10_000)
    index.sent("a", (1, 2, 3))
    index.progress("a", 9_000, 10_000)
    assert index.matched((1, 2, 3), 3 * BLOCK_BYTES) == {"a": 1.0}
    index.progress("a", 12_000, 10_000)
    assert index.matched((1, 2, 3), 3 * BLOCK_BYTES) == {}


def test_a_replica_that_started_again_has_forgotten() -> None:
    index = PrefixIndex()
    index.progress("a", 9_000, 10_000)
    index.sent("a", (1, 2, 3))
    index.progress("a", 10, 10_000)
    assert index.matched((1, 2, 3), 3 * BLOCK_BYTES) == {}


def test_expectations_that_are_not_met_shrink_and_recover() -> None:
    index = PrefixIndex()
    index.sent("a", (1, 2))
    for _ in range(500):
        index.learn(1_000 * index.trust, 200, 1_000)
    assert 0.1 < index.matched((1, 2), 2 * BLOCK_BYTES)["a"] < 0.35
    for _ in range(500):
        index.learn(1_000 * index.trust, 1_000, 1_000)
    assert index.matched((1, 2), 2 * BLOCK_BYTES)["a"] > 0.8


def test_the_share_of_reuse_is_of_the_last_million_tokens() -> None:
    index = PrefixIndex()
    assert index.reuse == 0.0
    for _ in range(2_000):
        index.learn(0.0, 800, 2_000)
    assert index.reuse == pytest.approx(0.4)
    for _ in range(2_000):
        index.learn(0.0, 0, 2_000)
    assert index.reuse < 0.02


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 50), max_size=8))))
def test_memory_is_bounded_and_shares_are_shares(sent: list[tuple[str, list[int]]]) -> None:
    index = PrefixIndex(most_keys=10)
    for name, keys in sent:
        index.sent(name, tuple(keys))
        assert len(index) <= 10
        assert all(
            0.0 <= share <= 1.0 for share in index.matched(tuple(keys), 8 * BLOCK_BYTES).values()
        )
