"""Captured answers of a real SGLang, and how an answer of ours is compared with them."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Capture:
    """One captured exchange: what was sent, and the status and body that came back."""

    method: str
    path: str
    request: Any
    status: int
    body: str

    @property
    def frames(self) -> list[Any]:
        """The events of a stream: objects, and "[DONE]"."""
        return frames_of(self.body)


def capture(name: str) -> Capture:
    """Read a capture by its name."""
    text = (_FOLDER / f"{name}.txt").read_text()
    asked, _, answer = text.partition("### raw response:\n")
    method, path = asked.split("\n")[0].split()[1:3]
    _, _, sent = asked.partition("### request body:\n")
    head, _, body = answer.partition("\n\n")
    status = int(head.split()[1])
    return Capture(method, path, orjson.loads(sent) if sent.strip() else None, status, body)


def frames_of(body: str) -> list[Any]:
    """Read the events of a stream."""
    data = [e.removeprefix("data: ") for e in body.strip().split("\n\n") if e.strip()]
    return [d if d == "[DONE]" else orjson.loads(d) for d in data]


def frame_shapes(frames: list[Any]) -> list[Any]:
    """Give the shapes of a stream's frames, equal neighbours once: SGLang may coalesce tokens."""
    return [s for s, _ in groupby(shape(f) for f in frames)]


def shape(value: Any) -> Any:
    """Give a value's keys in order and its kinds, without what it says; lists by their first
    item.
    """
    if isinstance(value, dict):
        return [(k, shape(v)) for k, v in value.items()]
    if isinstance(value, list):
        return [shape(v) for v in value[:1]]
    if isinstance(value, bool) or value is None:
        return repr(value)
    return "number" if isinstance(value, int | float) else "text"
