"""Which other ways to choose a replica are there, to compare with? Looked up by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Protocol

from gateway.queue.ledger import Candidate
from gateway.routing.prospects import Prospect, Roster
from gateway.routing.router import Choice, Question, candidates

CACHED_SHARE = 0.3  # of the prompt, above which cache_aware follows the cache
IMBALANCE_CALLS, IMBALANCE_RATIO = 64, 1.5  # beyond both, cache_aware balances instead


class Policy(Protocol):
    """Orders the replicas for a call."""

    def __call__(self, roster: Roster, question: Question) -> Choice:
        """Give the candidates in order of preference."""
        ...


@dataclass(slots=True)
class Promised:
    """The policy of this gateway: seconds, among replicas where the promise holds."""

    dice: Random

    def __call__(self, roster: Roster, question: Question) -> Choice:
        """Give the candidates in order of preference."""
        return candidates(roster, question, self.dice)


@dataclass(slots=True)
class RoundRobin:
    """One replica after the other, whatever they have to do."""

    turn: int = 0

    def __call__(self, roster: Roster, question: Question) -> Choice:
        """Give the candidates in order of preference."""
        usable = _usable(roster, question)
        if not usable:
            return Choice()
        self.turn += 1
        at = self.turn % len(usable)
        return _plain([*usable[at:], *usable[:at]], question)


@dataclass(frozen=True, slots=True)
class LeastOutstanding:
    """The replica with the fewest calls for its slots."""

    def __call__(self, roster: Roster, question: Question) -> Choice:
        """Give the candidates in order of preference."""
        usable = _usable(roster, question)
        return _plain(sorted(usable, key=lambda p: _filled(p, question)), question)


@dataclass(frozen=True, slots=True)
class CacheAware:
    """The replica that probably holds most of the prompt, unless calls are spread too unevenly.

    The rule of SGLang's router (sgl-model-gateway 0.3.2, cache_aware): least outstanding where the
    most loaded has over 64 calls and 1.5 times more than the least loaded; else the best match
    above 0.3.
    """

    def __call__(self, roster: Roster, question: Question) -> Choice:
        """Give the candidates in order of preference."""
        usable = sorted(_usable(roster, question), key=lambda p: _filled(p, question))
        if not usable:
            return Choice()
        counts = [_running(p, question) for p in usable]
        most, least = max(counts), min(counts)
        even = most - least <= IMBALANCE_CALLS or most <= IMBALANCE_RATIO * least
        best = max(usable, key=lambda p: question.cached.get(p.replica.id, 0.0))
        if even and question.cached.get(best.replica.id, 0.0) > CACHED_SHARE:
            usable.remove(best)
            usable.insert(0, best)
        return _plain(usable, question)


POLICIES: Mapping[str, Callable[[Random], Policy]] = MappingProxyType(
    {
        "promised": Promised,
        "round_robin": lambda _: RoundRobin(),
        "least_outstanding": lambda _: LeastOutstanding(),
        "cache_aware": lambda _: CacheAware(),
    }
)


class UnknownPolicy(LookupError):
    """No policy of that name; the message lists the known ones."""


def policy(name: str, dice: Random) -> Policy:
    """Make the policy of a name."""
    make = POLICIES.get(name)
    if make is None:
        raise UnknownPolicy(f"unknown routing policy {name!r}: known are {', '.join(POLICIES)}")
    return make(dice)


def _usable(roster: Roster, question: Question) -> list[Prospect]:
    return [p for p in roster.prospects if p.replica.id not in question.tried]


def _running(prospect: Prospect, question: Question) -> int:
    return question.held(prospect.replica.id).sequences + prospect.foreign_running


def _filled(prospect: Prospect, question: Question) -> tuple[float, str]:
    limit = prospect.bounds[question.class_name].sequences
    return _running(prospect, question) / limit, prospect.replica.id


def _plain(ordered: Sequence[Prospect], question: Question) -> Choice:
    offered: tuple[Candidate, ...] = tuple(p.bounds[question.class_name] for p in ordered)
    return Choice(offered, (), frozenset(question.tried))
