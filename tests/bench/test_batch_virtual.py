"""Rows of a batch make room for calls that come when rows have filled all replicas deep."""

import argparse

from bench.batch_virtual import measure


def options(*, no_yields: bool) -> argparse.Namespace:
    return argparse.Namespace(replicas=4, scale=0.03, seconds=15.0, onset=True, no_yields=no_yields)


def test_rows_yield_when_calls_come_and_what_is_done_twice_is_bounded() -> None:
    yielding = measure(options(no_yields=False), 1, 0.5, 256)
    staying = measure(options(no_yields=True), 1, 0.5, 256)
    assert staying.yielded == 0
    assert 0 < yielding.yielded <= 512
    assert yielding.attained > staying.attained + 0.02
