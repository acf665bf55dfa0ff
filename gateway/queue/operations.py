"""How does one gateway speak with the store about one model's queue? In numbered batches.

One batch is under way at a time; what comes up meanwhile makes the next one, so the busier the
gateway the larger its batches. A batch that is sent twice counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.line import Line
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import Waiting, work_us
from gateway.scripts import Script

PREFIX = "sluice:queue:"
GRANTS = "sluice:grants:"
WAITING = f"{GRANTS}waiting"  # told whenever a call finds no slot
BEGUN = f"{GRANTS}begun"  # told, with by whom, when one does while nobody waited
MOST_OPERATIONS = 500  # in one batch: a script holds up everybody else

Operation = tuple[Any, ...]


class Mode(StrEnum):
    """What a batch is: the next one, everything afresh, or the last."""

    NEXT = "next"
    RESTORE = "restore"
    QUIT = "quit"


class BatchLost(Exception):
    """The store does not know this gateway's last batch: it was silent, or data is lost."""


@dataclass(slots=True)
class Answer:
    """What the store says after a batch. `gateways` is empty but after a sweep."""

    released: int
    released_work_us: int
    backlog: dict[int, Backlog]
    gateways: dict[str, int]
    grants: list[tuple[str, str]] = field(default_factory=list)
    loads: dict[str, Cost] = field(default_factory=dict)


def acquire(waiting: Waiting) -> Operation:
    """Ask for a slot."""
    ask = waiting.ask
    return (
        "a",
        waiting.lease_id,
        ask.rank,
        repr(ask.first_token_by),
        ask.tenant,
        repr(ask.weight),
        work_us(ask),
        *_cost(ask.cost),
        "\n".join(ask.excluded) if ask.excluded else "",
        "\n".join([each.replica_id for each in ask.candidates]),
    )


def leave(lease_id: str) -> Operation:
    """End a wait."""
    return ("l", lease_id)


def release(lease_id: str, replica_id: str) -> Operation:
    """Give a slot back."""
    return ("r", lease_id, replica_id)


def take_over(before: Slot, lease_id: str, ask: Ask) -> Operation:
    """Tell that a call runs in the slot that another one has left."""
    return (
        "x",
        before.lease_id,
        before.replica_id,
        lease_id,
        ask.rank,
        ask.tenant,
        repr(ask.weight),
        work_us(ask),
        *_cost(ask.cost),
    )


def first_token(slot: Slot) -> Operation:
    """Free a slot's prefill tokens."""
    return ("f", slot.lease_id, slot.replica_id)


def bounds(candidate: Candidate, rank: int | None, *, tells_spare: bool = True) -> Operation:
    """Tell up to what a replica may be filled; `tells_spare` as in RedisLedger."""
    return (
        "b",
        "*" if rank is None else rank,
        candidate.replica_id,
        max(0, candidate.sequences),
        "" if candidate.kv_tokens is None else max(0, candidate.kv_tokens),
        "" if candidate.prefill_tokens is None else max(0, candidate.prefill_tokens),
        max(0, candidate.spare) if tells_spare else "",
    )


def usable(replicas: Sequence[str]) -> Operation:
    """Tell which replicas may be used, and no others."""
    return ("u", "\n".join(replicas))


def hand_over(replicas: Sequence[str]) -> Operation:
    """Let those who wait take what is free."""
    return ("o", "\n".join(replicas))


def held(slot: Slot) -> Operation:
    """Tell of a slot that this gateway holds."""
    return (
        "h",
        slot.lease_id,
        slot.replica_id,
        slot.rank,
        *_cost(slot.cost),
        round(slot.work_s * 1e6),
    )


def sweep(silent: dict[str, int]) -> Operation:
    """Tidy up, after gateways that were silent since the batch of that number, too."""
    return ("s", *(each for pair in silent.items() for each in pair), ".")


class Batches:
    """The batches of one gateway about one model."""

    def __init__(self, line: Line, script: Script, gateway: str, model: str) -> None:
        self._line = line
        self._script = script
        self._gateway = gateway
        self._keys = [f"{PREFIX}{{{model}}}"]
        self._number = 0

    async def send(
        self, mode: Mode, operations: Sequence[Operation], *, now: float, starvation_s: float
    ) -> Answer:
        """Have a batch done. Raises BatchLost, redis.RedisError or OSError: then restore."""
        self._number += 1
        arguments: list[Any] = [self._gateway, self._number, mode.value]
        arguments += [repr(now), repr(starvation_s), GRANTS]
        for operation in operations:
            arguments += operation
        found: list[bytes] = await self._script.on(self._line, self._keys, arguments)
        if found[0] != b"ok":
            raise BatchLost
        return _answer(found)


def read_waiting(data: bytes) -> tuple[str, dict[int, Backlog]]:
    """Read what is told in `WAITING`: the model, and who waits for it by rank."""
    base, _, backlog = data.partition(b"\n")
    return base.decode().removeprefix(f"{PREFIX}{{").removesuffix("}"), _backlog(backlog)


def read_begun(data: bytes) -> tuple[str, str, dict[int, Backlog]]:
    """Read what is told in `BEGUN`: by which gateway, the model, and who waits for it by rank."""
    gateway, _, rest = data.partition(b"\n")
    return (gateway.decode(), *read_waiting(rest))


def _cost(cost: Cost) -> tuple[int, int, int]:
    return (cost.sequences, cost.kv_tokens, cost.prefill_tokens)


def _answer(found: list[bytes]) -> Answer:
    answer = Answer(int(found[1]), int(found[2]), _backlog(found[3]), _gateways(found[4]))
    at = 6
    for _ in range(int(found[5])):
        answer.grants.append((found[at].decode(), found[at + 1].decode()))
        at += 2
    while at < len(found):
        cost = Cost(int(found[at + 1]), int(found[at + 2]), int(found[at + 3]))
        answer.loads[found[at].decode()] = cost
        at += 4
    return answer


def _backlog(text: bytes) -> dict[int, Backlog]:
    if not text:
        return {}
    split = (each.split() for each in text.split(b";"))
    return {int(rank): Backlog(int(calls), int(us) / 1e6) for rank, calls, us in split}


def _gateways(text: bytes) -> dict[str, int]:
    if not text:
        return {}
    words = text.decode().split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}
