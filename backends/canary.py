"""Does a replica answer as its model should? Known questions, and which answers are right.

An engine whose numerics are wrong starts, is healthy and is fast; only what it says is wrong. A
canary is a file of questions per model (`canaries/MODEL.yaml`) that a replica must answer before it
is registered (`backends.proving`).

    model: gpt-oss-120b
    least_right: 0.9             # share of all answers that must be right
    request: {temperature: 0}    # fields of each request beside model and messages
    questions:
      - ask: What is 17 plus 25?
        expect: ["42", "forty-two"]          # one of them, as words of their own
      - remember: The depot's code is 7391.  # comes first, then `filler`, `times` times, then `ask`
        filler: The wind turned north.
        times: 900
        ask: What is the depot's code?
        expect: ["7391"]
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_DIRECTORY = Path(__file__).parent / "canaries"
_SHOWN_CHARACTERS = 100


class CanaryFileError(ValueError):
    """A canary file is not one; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the words of which one must stand in the answer."""

    ask: str
    expect: tuple[str, ...]
    before: str = ""

    @property
    def prompt(self) -> str:
        """All that the replica is given."""
        return f"{self.before}\n\n{self.ask}" if self.before else self.ask

    def is_answered_by(self, text: str) -> bool:
        """Whether one of the expected stands in a text as a word or number of its own, in any case.

        Thousands may be set apart: 1,024 is 1024.
        """
        said = re.sub(r"(?<=\d)[, \u00a0\u202f](?=\d{3}(?!\d))", "", text.casefold())
        return any(
            re.search(rf"(?<!\w)(?<!\d\.){re.escape(each.casefold())}(?!\w)(?!\.\d)", said)
            for each in self.expect
        )


@dataclass(frozen=True, slots=True)
class Canary:
    """The questions for one model; `fields` go into each request, `least_right` is a share."""

    model: str
    least_right: float
    fields: Mapping[str, Any]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a replica said to a question; `text` tells instead why there was no answer."""

    question: Question
    text: str
    is_right: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """All answers of one replica."""

    answers: tuple[Answer, ...]
    least_right: float

    @property
    def right(self) -> int:
        """How many were right."""
        return sum(each.is_right for each in self.answers)

    @property
    def needed(self) -> int:
        """How many have to be."""
        # Rounded first: 0.7 of 10 is 7, and not what follows 7.000000000000001.
        return math.ceil(round(self.least_right * len(self.answers), 6))

    @property
    def is_passed(self) -> bool:
        """Whether the replica may serve."""
        return bool(self.answers) and self.right >= self.needed

    def told(self) -> str:
        """Give the count, and a line for each wrong answer; one where all are wrong alike."""
        count = f"{self.right} of {len(self.answers)} canary answers are right"
        needed = f"{count}, {self.needed} are needed"
        questions = {each.question for each in self.answers}
        texts = {each.text for each in self.answers}
        if not self.right and len(questions) > 1 and len(texts) == 1:
            return f"{needed}; each was {_short(texts.pop())!r}"
        wrong = dict.fromkeys(
            f"\n  {_short(each.question.ask)!r} -> {_short(each.text)!r}"
            f" (expected: {' or '.join(each.question.expect)})"
            for each in self.answers
            if not each.is_right
        )
        return needed + "".join(wrong)


def shipped(model: str) -> Canary | None:
    """Give the canary that comes with Sluice for a model; None where there is none."""
    known = {path.stem: path for path in _DIRECTORY.glob("*.yaml")}
    return read(known[model]) if model in known else None


def read(path: Path) -> Canary:
    """Read a canary file; raises CanaryFileError."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping")
        return _canary(found)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise CanaryFileError(f"{path}: {error}") from error


def _canary(given: dict[str, Any]) -> Canary:
    _only(given, {"model", "least_right", "request", "questions"}, "the file")
    model, least = given.get("model"), given.get("least_right", 1.0)
    fields, questions = given.get("request", {}), given.get("questions")
    if not isinstance(model, str):
        raise ValueError("model: a name is needed")
    if not isinstance(least, int | float) or not 0 < least <= 1:
        raise ValueError(f"least_right: {least!r} is no share above 0 and up to 1")
    if not isinstance(fields, dict) or {"model", "messages", "stream"} & set(fields):
        raise ValueError("request: fields of a request beside model, messages and stream")
    if not isinstance(questions, list) or not questions:
        raise ValueError("questions: at least one is needed")
    return Canary(model, float(least), fields, tuple(map(_question, questions)))


def _question(given: Any) -> Question:
    if not isinstance(given, dict) or not isinstance(given.get("ask"), str):
        raise ValueError(f"questions: {given!r} has no `ask`")
    ask = given["ask"]
    _only(given, {"ask", "expect", "remember", "filler", "times"}, repr(ask))
    expect = given.get("expect")
    if not isinstance(expect, list) or not expect or not all(isinstance(e, str) for e in expect):
        raise ValueError(f"{ask!r}: expect: a list of texts is needed")
    question = Question(ask, tuple(expect), _before(given))
    if question.is_answered_by(ask):
        raise ValueError(f"{ask!r}: a replica that repeats the question would pass")
    return question


def _before(given: Mapping[str, Any]) -> str:
    parts = [given.get("remember", ""), given.get("filler", "")]
    times = given.get("times", 1)
    if not all(isinstance(p, str) for p in parts) or not isinstance(times, int):
        raise ValueError(f"{given['ask']!r}: remember and filler are texts, times is a number")
    return "\n\n".join(filter(None, (parts[0], " ".join([parts[1]] * times).strip())))


def _only(given: Mapping[str, Any], known: Sequence[str] | set[str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown: {', '.join(map(str, unknown))}")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else flat[:_SHOWN_CHARACTERS] + "..."
