"""How much of a trace's shared prefixes is not computed again by a fleet? In virtual time."""

import gzip
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType

import orjson

from backends.hardware import profile
from bench.slo_virtual import World
from bench.slo_world import MODEL, Sent
from gateway.wire.body import Body

BLOCK_TOKENS = 512
BYTES_PER_TOKEN = 4
REPLICAS = 4  # whole MI355X GPUs: the trace keeps them about a third busy
# A long-context model's cache, by replica: GPT-OSS-120B takes 36.9 kB a token in FP8 (36 layers, 8
# heads of 64, keys and values), twice that in BF16, of the 196 GB that 63 GB of weights leave of
# nine tenths of an MI355X's memory. SGLang's hierarchical cache adds a pool in the host's memory,
# twice as large unless told otherwise (--hicache-ratio); here it is as fast as the GPU's. The speed
# is taken as Llama-2-70B's.
KV_TOKENS = 5_300_000
SIZES = MappingProxyType(
    {"BF16": KV_TOKENS // 2, "FP8": KV_TOKENS, "FP8, hierarchical": 3 * KV_TOKENS}
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a trace; `blocks` are the chained keys of its prompt's whole blocks."""

    at_s: float
    prompt: int
    output: int
    ids: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reuse:
    """`skipped`: prompt tokens not prefilled, over those of one unbounded cache for all."""

    skipped: float
    ttft_p99_s: float
    calls: int
    refused: int


def read(path: Path, seconds: float) -> list[Asked]:
    """Read a trace's first seconds, gzipped or not.

    Raises ValueError for a line that lacks a field.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    found: list[Asked] = []
    with opened(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            row = orjson.loads(line)
            try:
                at_s, ids = row["timestamp"] / 1e3, tuple(row["hash_ids"])
                prompt, output = row["input_length"], row["output_length"]
            except KeyError as missing:
                raise ValueError(f"{path}, line {number}: no {missing}") from None
            if at_s >= seconds:
                break
            key, chain = 0, []
            for each in ids[: prompt // BLOCK_TOKENS]:
                key = hash((key, each))
                chain.append(key)
            found.append(Asked(at_s, prompt, max(output, 1), ids, tuple(chain)))
    return found


def unbounded(calls: list[Asked]) -> int:
    """Give the prompt tokens that one unbounded cache for the whole fleet could skip."""
    seen: set[int] = set()
    skipped = 0
    for call in calls:
        count = next((i for i, key in enumerate(call.blocks) if key not in seen), len(call.blocks))
        skipped += min(count * BLOCK_TOKENS, call.prompt - 1)
        seen.update(call.blocks)
    return skipped


def prefix_reuse(path: Path, policy: str, seconds: float, *, kv_tokens: int = KV_TOKENS) -> Reuse:
    """Send a trace to a fleet under a policy, with blocks of text that are alike where ids are."""
    calls = read(path, seconds)
    world = World(
        [profile(MODEL, "mi355x").law] * REPLICAS,
        policy=policy,
        block_tokens=BLOCK_TOKENS,
        kv_tokens=kv_tokens,
    )
    for call in calls:
        world.at(call.at_s, partial(_arrive, world, call))
    world.until(seconds + 120.0)
    tally = world.tallies["server"]
    ttft = sorted(tally.ttft_s)
    return Reuse(
        tally.cached_tokens / max(unbounded(calls), 1),
        ttft[int(0.99 * (len(ttft) - 1))],
        tally.sent,
        sum(tally.refused.values()),
    )


def _arrive(world: World, call: Asked) -> None:
    text = b"".join(
        Random(each).randbytes(BLOCK_TOKENS * BYTES_PER_TOKEN // 2).hex().encode()
        for each in call.ids
    )
    body = b'{"messages":[{"content":"' + text[: call.prompt * BYTES_PER_TOKEN] + b'"}]}'
    world.call(Sent(call.prompt, call.output, "server", Body(body), blocks=call.blocks))
