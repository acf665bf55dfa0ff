"""How fast is this replica? A short designed sweep measures the step law's constants.

Three points tell them apart: one call (c0), many short ones (c_tok), many with long prompts (c_kv).
The mean step is the time between tokens of streams with a fixed number of tokens. Prefill (c_pre)
is the time until all of some prompts that no cache holds have their first token.

An engine that has just begun still compiles kernels when it first meets a size of batch, which
makes a point too long. One that takes in hundreds of calls at once hands on their first tokens late
and then in a heap, which makes it too short: on an H100 by half. So the first third of all streams
is not looked at, each point is measured three times, and the median counts.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import aiohttp
import numpy as np

from backends.capacity import StepLaw


@dataclass(frozen=True, slots=True)
class Point:
    """A load and the mean step that was seen at it (seconds)."""

    running: int
    prompt_tokens: int
    output_tokens: int
    step_s: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The law with what it was fitted to; `error` is the mean relative residual."""

    law: StepLaw
    points: tuple[Point, ...]
    error: float


_TIMES = 3  # each point, of which the median counts
_PREFILLS = 3  # the first may compile
_PROMPTS, _PROMPT_WORDS = 6, 512  # within one chunk of most engines


class CalibrationFailed(RuntimeError):
    """The replica could not be measured; the message says why."""


def fit(points: Sequence[Point]) -> tuple[StepLaw, float]:
    """Fit c0, c_tok and c_kv, none below zero, by least squares on relative errors.

    In a closed loop prefill is over when streams are counted: a step holds `running` decode tokens
    and `running * (prompt + output/2)` resident ones.
    """
    rows = np.array(
        [[1.0, p.running, p.running * (p.prompt_tokens + p.output_tokens / 2)] for p in points]
    )
    seen = np.array([p.step_s for p in points])
    free = [0, 1, 2]
    solution = np.zeros(3)
    while free:
        found = np.linalg.lstsq(rows[:, free] / seen[:, None], np.ones(len(seen)), rcond=None)[0]
        if (found >= 0).all():
            solution[:] = 0.0
            solution[free] = found
            break
        free.pop(int(found.argmin()))
    error = float(np.abs(rows @ solution / seen - 1.0).mean())
    return StepLaw(*(float(each) for each in solution)), error


async def calibrate(
    url: str,
    model: str,
    *,
    api_key: str | None = None,
    most_running: int = 64,
    output_tokens: int = 96,
) -> Calibrated:
    """Measure a replica that serves nobody else; raises CalibrationFailed."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=300.0)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(
            url, headers=headers, timeout=timeout, connector=connector
        ) as session:
            points = []
            for running in _levels(most_running):
                for prompt in (16, 512):
                    await _together(session, model, running, prompt, 4)  # warms this shape
                    points.append(await _point(session, model, running, prompt, output_tokens))
            prefills = [await _prefill(session, model) for _ in range(_PREFILLS)]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise CalibrationFailed(f"{url}: {type(error).__name__} {error}") from error
    law, error_share = fit(points)
    if law.c_tok_s + law.c_kv_s <= 0.0:
        raise CalibrationFailed(
            f"{url}: steps of {points[-1].running} calls were no longer than of one; "
            "was somebody else served meanwhile? Measure again"
        )
    return Calibrated(with_prefill(law, *min(prefills)), tuple(points), error_share)


def with_prefill(law: StepLaw, took_s: float, tokens: int) -> StepLaw:
    """Tell prefill apart: so many prompt tokens took so long, the steps of an idle replica in it.

    Never less than c_tok: the first tokens come with a step of decoding.
    """
    own_s = max(0.0, took_s - law.c0_s) / max(1, tokens)
    return replace(law, c_pre_s=max(own_s, law.c_tok_s))


def _levels(most: int) -> list[int]:
    levels = [1]
    while levels[-1] * 4 <= most:
        levels.append(levels[-1] * 4)
    return levels


async def _point(
    session: aiohttp.ClientSession, model: str, running: int, prompt: int, output: int
) -> Point:
    taken = [await _together(session, model, running, prompt, output) for _ in range(_TIMES)]
    return sorted(taken, key=lambda point: point.step_s)[_TIMES // 2]


async def _prefill(session: aiohttp.ClientSession, model: str) -> tuple[float, int]:
    """Send some prompts at once that nobody has sent before: seconds to all first tokens, and the
    tokens that were prefilled for it.
    """
    begun = time.perf_counter()
    prompt = " word" * _PROMPT_WORDS
    streams = await asyncio.gather(
        *(_stream(session, model, secrets.token_hex(8) + prompt, 2) for _ in range(_PROMPTS))
    )
    return max(t[0][0] for t, _ in streams) - begun, sum(tokens for _, tokens in streams)


async def _together(
    session: aiohttp.ClientSession, model: str, running: int, prompt: int, output: int
) -> Point:
    """Run some streams at once; the mean step is measured while all of them decode."""
    streams = await asyncio.gather(
        *(_stream(session, model, f"{i} " + "word " * prompt, output) for i in range(running))
    )
    step_s = mean_step_s([times for times, _ in streams], output)
    return Point(running, round(float(np.mean([usage for _, usage in streams]))), output, step_s)


def mean_step_s(streams: Sequence[Sequence[tuple[float, int]]], output: int) -> float:
    """Give the seconds per token while all decode; each stream is (instant, tokens until then).

    From when the last has a third of its tokens on. Where the first have ended by then, from when
    the last has begun. Raises ValueError where that leaves nothing.
    """
    for least in (output // 3, 1):
        start = max(next((at for at, n in s if n >= least), s[-1][0]) for s in streams)
        took, tokens = 0.0, 0
        for stream in streams:
            inside = [each for each in stream if each[0] >= start]
            if len(inside) >= 2:
                took += inside[-1][0] - inside[0][0]
                tokens += inside[-1][1] - inside[0][1]
        if tokens:
            return took / tokens
    raise ValueError("too few tokens came back to measure a step")


async def _stream(
    session: aiohttp.ClientSession, model: str, prompt: str, output: int
) -> tuple[list[tuple[float, int]], int]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": output,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    times: list[tuple[float, int]] = []
    prompt_tokens = 0
    async with session.post("/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {(await answer.text())[:200]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            frame = json.loads(line[6:])
            usage = frame.get("usage") or {}
            prompt_tokens = usage.get("prompt_tokens", prompt_tokens)
            count = usage.get("completion_tokens") or (times[-1][1] + 1 if times else 1)
            if frame.get("choices"):
                times.append((time.perf_counter(), int(count)))
    if not times:
        raise ValueError("a stream without tokens")
    return times, prompt_tokens
