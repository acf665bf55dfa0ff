"""Which replicas may serve this call, in which order, and what would each do? Read this first here.

filters -> predictions -> scores -> pick. Everything is pure: what is known comes in a `Question`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from operator import itemgetter
from random import Random

from msgspec import Struct

from backends.capacity import Mix
from backends.slo import Targets
from gateway.estimates import Size
from gateway.queue.ledger import Candidate, Cost
from gateway.routing.filters import near_enough, not_outliers, not_tried
from gateway.routing.picker import STALE_S, sample
from gateway.routing.predictions import Prediction, predict
from gateway.routing.prospects import Prospect, Roster
from gateway.routing.scorers import fullest_first, seconds

TPOT_FILL = 0.95  # of the TPOT limit that a prediction may reach


class Question(Struct, frozen=True, kw_only=True):
    """One call, as routing sees it.

    `within_s` is the time until the first token is due, less what predictions are usually wrong by;
    `cached` the share of the prompt that each replica probably holds; `held` what the ledger has
    given out on a replica.
    """

    class_name: str
    targets: Targets
    size: Size
    mix: Mix
    within_s: float
    held: Callable[[str], Cost]
    cached: Mapping[str, float] = {}
    tried: Collection[str] = ()
    ejected: Collection[str] = ()
    shrinking: bool = False
    now: float = 0.0


class Scored(Struct, frozen=True):
    """One replica that was looked at; `holds`: it has room, and both predictions are in limits."""

    prospect: Prospect
    prediction: Prediction
    score_s: float
    has_room: bool
    holds: bool


class Choice(Struct, frozen=True):
    """The answer to a question.

    `candidates` are in order of preference and all that may be used; `scored` those that were
    looked at, in the same order. `never` are replicas of the model that this call must not get.
    """

    candidates: tuple[Candidate, ...] = ()
    scored: tuple[Scored, ...] = ()
    never: frozenset[str] = frozenset()

    @property
    def best(self) -> Scored | None:
        """The first choice."""
        return self.scored[0] if self.scored else None


def candidates(roster: Roster, question: Question, dice: Random) -> Choice:
    """Choose: score in seconds among replicas where both predictions hold, then all others.

    Above 32 replicas, or on stale loads, a random few are scored, and the one that holds most of
    the prompt; the others are offered too where none of the few has room. A call that waits takes
    whatever comes free. Replicas that would be too late even with nothing ahead of the call are
    never used, unless all would.
    """
    reachable = _usable(roster, question)
    stale = question.now - roster.load_at > STALE_S
    looked_at = sample(reachable, dice, stale=stale)
    if question.cached and len(looked_at) < len(reachable):
        looked_at = _with_holder(looked_at, reachable, question.cached)
    scored = _scores(looked_at, question)
    name = question.class_name
    offered = [s.prospect.bounds[name] for s in scored]
    if len(scored) < len(reachable) and not any(s.has_room for s in scored):
        seen = {s.prospect.replica.id for s in scored}
        offered += [p.bounds[name] for p in reachable if p.replica.id not in seen]
    never: frozenset[str] = frozenset()
    if len(reachable) < len(roster.prospects):
        kept = {p.replica.id for p in reachable}
        never = frozenset(p.replica.id for p in roster.prospects if p.replica.id not in kept)
    return Choice(tuple(offered), scored, never)


def is_reachable(choice: Choice, question: Question) -> bool:
    """Say whether the first choice could keep the limits if it were idle."""
    return choice.best is not None and _reachable(choice.best.prospect, question)


def ttft_from_slot_s(choice: Choice, question: Question) -> float:
    """Say how long a call's first token would take from the moment that it has a slot.

    That of the first choice where it has room. A call that waits is given a slot once its prompt
    fits among those in flight there, so that what is ahead of it beyond that is done by then: it
    would otherwise be counted twice, with the wait. Of replicas without room the soonest counts.
    """
    best = choice.best
    if best is None:
        return 0.0
    if best.has_room:
        return best.prediction.ttft_s
    return min(_ttft_with_room_s(each, question) for each in choice.scored)


def _ttft_with_room_s(scored: Scored, question: Question) -> float:
    """Give a replica's TTFT less the prompts that are to be done before there is room."""
    prospect, prediction = scored.prospect, scored.prediction
    bound = prospect.bounds[question.class_name].prefill_tokens
    if bound is None:
        return prediction.ttft_s
    missing = max(question.size.prompt_tokens - prediction.cached_tokens, 1.0)
    stays = max(bound - missing, 0.0)
    done_before = max(prediction.ahead_tokens - stays, 0.0)
    return prediction.ttft_s - prospect.speed.prefill_token_s * done_before


def _scores(prospects: Sequence[Prospect], question: Question) -> tuple[Scored, ...]:
    """Score each and put them in order: those that hold first, then those with room.

    One loop with all that is the same for each taken out of it: it runs for every call.
    """
    size, mix, held_on = question.size, question.mix, question.held
    prompt_tokens, within_s = size.prompt_tokens, question.within_s
    limit_s = question.targets.tpot_s
    tpot_within_s = inf if limit_s is None else TPOT_FILL * limit_s
    class_name, cached = question.class_name, question.cached
    found: list[tuple[bool, bool, float, str, Scored]] = []
    for prospect in prospects:
        replica_id = prospect.replica.id
        held = held_on(replica_id)
        cached_tokens = cached.get(replica_id, 0.0) * prompt_tokens if cached else 0.0
        prediction = predict(prospect, held, size, mix, cached_tokens)
        bound, ahead_tokens = prospect.bounds[class_name], prediction.ahead_tokens
        has_room = held.sequences + bound.spare < bound.sequences and (
            bound.prefill_tokens is None
            or ahead_tokens == 0
            or ahead_tokens + prompt_tokens - cached_tokens <= bound.prefill_tokens
        )
        in_limits = prediction.ttft_s <= within_s and prediction.tpot_s <= tpot_within_s
        score_s = seconds(prospect, prediction, prompt_tokens)
        if question.shrinking:
            score_s = fullest_first(score_s)
        holds = has_room and in_limits
        scored = Scored(prospect, prediction, score_s, has_room, holds)
        found.append((not holds, not has_room, score_s, replica_id, scored))
    found.sort(key=_order)
    return tuple([each[4] for each in found])


def _with_holder(
    few: Sequence[Prospect], reachable: Sequence[Prospect], cached: Mapping[str, float]
) -> Sequence[Prospect]:
    """Add the replica that holds most of the prompt to a sample, if it may be used."""
    best = max(cached, key=cached.__getitem__)
    if any(p.replica.id == best for p in few):
        return few
    return [*few, *(p for p in reachable if p.replica.id == best)]


_order = itemgetter(0, 1, 2, 3)


def _reachable(prospect: Prospect, question: Question) -> bool:
    """Whether an idle replica would keep the call's limits."""
    speed, targets = prospect.speed, question.targets
    law = speed.law
    if targets.tpot_s is not None and law.c0_s + law.c_tok_s > targets.tpot_s:
        return False
    ttft_s = inf if targets.ttft_s is None else targets.ttft_s
    cached = question.cached.get(prospect.replica.id, 0.0)
    missing = question.size.prompt_tokens * (1.0 - cached)
    return prospect.rtt_s + law.c0_s + speed.prefill_token_s * missing <= ttft_s


def _in_time(prospect: Prospect, question: Question) -> bool:
    """Whether a replica could keep them from now on, had it nothing else to prefill."""
    speed, limit_s = prospect.speed, question.targets.tpot_s
    if limit_s is not None and speed.law.c0_s + speed.law.c_tok_s > limit_s:
        return False
    missing = question.size.prompt_tokens * (1.0 - question.cached.get(prospect.replica.id, 0.0))
    step_s = speed.law.c0_s + speed.prefill_token_s * missing
    return prospect.rtt_s + step_s <= question.within_s


def _usable(roster: Roster, question: Question) -> Sequence[Prospect]:
    """Filter; where even the worst would pass, without a look at each."""
    usable: Sequence[Prospect] = roster.prospects
    if question.tried:
        usable = not_tried(usable, question.tried)
    if roster.rtt_s > roster.nearest_s:
        usable = near_enough(usable, question.targets)
    if question.ejected:
        usable = not_outliers(usable, question.ejected)
    tpot_s = question.targets.tpot_s
    prefill_s = roster.prefill_token_s * question.size.prompt_tokens
    in_time = roster.rtt_s + roster.least_step_s + prefill_s <= question.within_s
    if in_time and (tpot_s is None or roster.least_step_s <= tpot_s):
        return usable
    return [p for p in usable if _in_time(p, question)] or usable
