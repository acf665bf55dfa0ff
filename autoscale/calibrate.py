"""How fast is this replica? A short designed sweep measures the step law's constants.

Three points tell them apart: one call (c0), many short ones (c_tok), many with long prompts (c_kv).
The mean step is the time between tokens of streams with a fixed number of tokens.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

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
    output_tokens: int = 48,
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
                    await _together(session, model, 1, prompt, 4)  # warms what this shape compiles
                    points.append(await _together(session, model, running, prompt, output_tokens))
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise CalibrationFailed(f"{url}: {type(error).__name__} {error}") from error
    law, error_share = fit(points)
    return Calibrated(law, tuple(points), error_share)


def _levels(most: int) -> list[int]:
    levels = [1]
    while levels[-1] * 4 <= most:
        levels.append(levels[-1] * 4)
    return levels


async def _together(
    session: aiohttp.ClientSession, model: str, running: int, prompt: int, output: int
) -> Point:
    """Run some streams at once; the mean step is measured while all of them decode."""
    streams = await asyncio.gather(
        *(_stream(session, model, f"{i} " + "word " * prompt, output) for i in range(running))
    )
    start = max(times[0][0] for times, _ in streams)
    steps, count, prompt_tokens = 0.0, 0, []
    for times, usage in streams:
        inside = [(at, n) for at, n in times if at >= start]
        if len(inside) >= 2 and inside[-1][1] > inside[0][1]:
            steps += inside[-1][0] - inside[0][0]
            count += inside[-1][1] - inside[0][1]
        prompt_tokens.append(usage)
    if not count:
        raise ValueError("too few tokens came back to measure a step")
    return Point(running, round(float(np.mean(prompt_tokens))), output, steps / count)


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
