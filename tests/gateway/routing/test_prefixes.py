"""Who has seen this prompt's beginning? Bounded, aged, and corrected by what engines report."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.prefixes import BLOCK_BYTES, MOST_BLOCKS, PrefixIndex, block_keys


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


def test_a_short_prompt_has_no_keys_and_a_long_one_not_too_many() -> None:
    assert block_keys(body("hi")) == ()
    assert len(block_keys(b"x" * 10**6)) == MOST_BLOCKS


def test_the_share_that_a_replica_holds_ends_at_the_first_unknown_block() -> None:
    index = PrefixIndex()
    keys = block_keys(body("x" * 8 * BLOCK_BYTES))
    index.sent("a", keys)
    index.sent("b", keys[:4])
    found = index.matched(keys)
    assert found["a"] == 1.0
    assert found["b"] == 4 / len(keys)
    assert index.matched((1, *keys)) == {}


def test_a_replica_that_has_prefilled_its_whole_cache_since_has_forgotten() -> None:
    index = PrefixIndex()
    index.progress("a", 1_000, 10_000)
    index.sent("a", (1, 2, 3))
    index.progress("a", 9_000, 10_000)
    assert index.matched((1, 2, 3)) == {"a": 1.0}
    index.progress("a", 12_000, 10_000)
    assert index.matched((1, 2, 3)) == {}


def test_a_replica_that_started_again_has_forgotten() -> None:
    index = PrefixIndex()
    index.progress("a", 9_000, 10_000)
    index.sent("a", (1, 2, 3))
    index.progress("a", 10, 10_000)
    assert index.matched((1, 2, 3)) == {}


def test_expectations_that_are_not_met_shrink_and_recover() -> None:
    index = PrefixIndex()
    index.sent("a", (1, 2))
    for _ in range(500):
        index.learn(1_000 * index.trust, 200)
    assert 0.1 < index.matched((1, 2))["a"] < 0.35
    for _ in range(500):
        index.learn(1_000 * index.trust, 1_000)
    assert index.matched((1, 2))["a"] > 0.8


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 50), max_size=8))))
def test_memory_is_bounded_and_shares_are_shares(sent: list[tuple[str, list[int]]]) -> None:
    index = PrefixIndex(most_keys=10)
    for name, keys in sent:
        index.sent(name, tuple(keys))
        assert len(index) <= 10
        assert all(0.0 <= share <= 1.0 for share in index.matched(tuple(keys)).values())
