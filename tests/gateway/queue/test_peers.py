"""A gateway lives as long as it sends batches."""

from gateway.queue.peers import EXPIRY_S, Peers


def test_who_sends_nothing_new_for_long_is_silent_and_not_counted() -> None:
    peers = Peers("own")
    peers.seen({"own": 1, "one": 7, "two": 3}, at=10.0)
    assert (peers.count, peers.silent(10.0)) == (3, {})
    peers.seen({"own": 1, "one": 8, "two": 3}, at=10.0 + EXPIRY_S)
    assert peers.count == 2
    assert peers.silent(10.0 + EXPIRY_S) == {"two": 3}
    peers.seen({"own": 1, "one": 8, "two": 4}, at=10.5 + EXPIRY_S)
    assert (peers.count, peers.silent(10.5 + EXPIRY_S)) == (3, {})


def test_who_is_gone_from_the_store_is_forgotten() -> None:
    peers = Peers("own")
    peers.seen({"one": 7}, at=0.0)
    peers.seen({}, at=1.0)
    assert (peers.count, peers.silent(99.0)) == (1, {})
