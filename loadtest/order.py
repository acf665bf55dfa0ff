"""In which order does LoadGen issue the samples of a dataset?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadtest.mersenne import Mt19937
from loadtest.seeds import Seeds

Indices = NDArray[np.int32]


def equal_issue(seeds: Seeds, dataset_size: int, count: int, *, min_queries: int = 100) -> Indices:
    """Order `count` queries in whole permutations of the dataset (all language models).

    LoadGen draws ceil(min_queries / dataset_size) permutations, with the configured minimum before
    padding, and then repeats them: with the usual minimum of 100 every pass over a larger dataset
    has the same order. Source: mlcommons/inference, loadgen/loadgen.cc, GenerateQueries.
    """
    loaded, rng = _loaded(seeds, dataset_size)
    permutations: list[int] = []
    order = list(range(dataset_size))
    while len(permutations) < min_queries:
        rng.shuffle(order)
        permutations += order
    cycle = loaded[np.array(permutations, dtype=np.int64)]
    return np.resize(cycle, count).astype(np.int32)


def with_replacement(
    seeds: Seeds, dataset_size: int, count: int, *, min_queries: int = 100
) -> Indices:
    """Order `count` queries as independent uniform draws (models without equal issue: wan-2.2)."""
    loaded, rng = _loaded(seeds, dataset_size)
    unused = list(range(dataset_size))
    for _ in range(0, min_queries, dataset_size):
        rng.shuffle(unused)  # LoadGen prepares the permutations even where it does not use them
    drawn = np.fromiter((rng.below(dataset_size) for _ in range(count)), np.int64, count)
    return loaded[drawn].astype(np.int32)


def offline(seeds: Seeds, dataset_size: int, count: int, *, shuffled: bool) -> Indices:
    """Order the samples of Offline's single query: repeats of the load order, each shuffled anew if
    `shuffled`.
    """
    loaded, rng = _loaded(seeds, dataset_size)
    rng.shuffle(list(range(dataset_size)))
    if not shuffled:
        return np.resize(loaded, count).astype(np.int32)
    passes: list[int] = []
    while len(passes) < count:
        one = loaded.tolist()
        rng.shuffle(one)
        passes += one
    return np.array(passes[:count], dtype=np.int32)


def _loaded(seeds: Seeds, dataset_size: int) -> tuple[NDArray[np.int64], Mt19937]:
    """Give the load order and the sample generator, one discarded shuffle in."""
    if dataset_size < 1:
        raise ValueError(f"a dataset has at least one sample, not {dataset_size}")
    load = list(range(dataset_size))
    Mt19937(seeds.load_order).shuffle(load)
    rng = Mt19937(seeds.sample_order)
    rng.shuffle(list(range(dataset_size)))
    return np.array(load, dtype=np.int64), rng
