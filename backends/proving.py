"""Does a replica pass its canary? It is asked once it is ready, and before anybody else may ask it.

Each question is asked alone and then all of them at once: kernels are chosen by the size of the
batch, and only some of them may be wrong.
"""

import asyncio
from collections.abc import Callable

import aiohttp

from backends.canary import Answer, Canary, Findings, Question
from backends.clock import Clock
from backends.fleet import Replica
from backends.sglang import READY_PATH

CHAT_PATH = "/v1/chat/completions"
ANSWER_WITHIN_S = 300.0
_LOOK_EVERY_S = 2.0
_READY_WITHIN_S = 10.0
_GONE_AFTER = 3


class Unproven(RuntimeError):
    """A replica must not serve: it failed its canary, or ended after it; the message says which."""


async def prove(
    replica: Replica, canary: Canary, *, clock: Clock, say: Callable[[str], None]
) -> Findings:
    """Wait until a replica is ready, however long, and ask it; raises Unproven."""
    async with _session(replica) as session:
        await _until_ready(session, replica, clock, say)
    say(f"asking {replica.url} its canary, {len(canary.questions)} questions twice")
    findings = await examine(replica, canary)
    if not findings.is_passed:
        raise Unproven(f"{replica.model} at {replica.url} is not registered: {findings.told()}")
    say(findings.told())
    return findings


async def until_gone(replica: Replica, *, clock: Clock) -> None:
    """Wait until nothing listens where a replica was: what comes there next has proved nothing.

    One that is slow, paused or draining is there; a connection must fail three times in a row.
    """
    url, failed = replica.url.rstrip("/") + READY_PATH, 0
    within = aiohttp.ClientTimeout(total=_READY_WITHIN_S)
    async with _session(replica) as session:
        while failed < _GONE_AFTER:
            await clock.sleep(_LOOK_EVERY_S)
            try:
                async with session.get(url, timeout=within):
                    failed = 0
            except aiohttp.ClientConnectorError:
                failed += 1
            except (aiohttp.ClientError, TimeoutError, OSError):
                failed = 0


async def examine(replica: Replica, canary: Canary) -> Findings:
    """Ask a replica every question, one after the other and then all at once."""
    async with _session(replica) as session:
        alone = [await _ask(session, replica, canary, each) for each in canary.questions]
        together = await asyncio.gather(
            *(_ask(session, replica, canary, each) for each in canary.questions)
        )
    return Findings((*alone, *together), canary.least_right)


def _session(replica: Replica) -> aiohttp.ClientSession:
    key = replica.api_key
    return aiohttp.ClientSession(
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _until_ready(
    session: aiohttp.ClientSession, replica: Replica, clock: Clock, say: Callable[[str], None]
) -> None:
    url = replica.url.rstrip("/") + READY_PATH
    within = aiohttp.ClientTimeout(total=_READY_WITHIN_S)
    waits = False
    while True:
        try:
            async with session.get(url, timeout=within) as answer:
                if answer.status == 200:
                    return
                why = f"status {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = type(error).__name__
        if not waits:
            say(f"waiting until {replica.url} is ready to be asked its canary ({why})")
            waits = True
        await clock.sleep(_LOOK_EVERY_S)


async def _ask(
    session: aiohttp.ClientSession, replica: Replica, canary: Canary, question: Question
) -> Answer:
    """Ask one question; whatever is no answer is a wrong one, which tells why."""
    body = {
        "model": replica.engine_model,
        "messages": [{"role": "user", "content": question.prompt}],
        **canary.fields,
    }
    try:
        async with session.post(replica.url.rstrip("/") + CHAT_PATH, json=body) as answer:
            if answer.status != 200:
                said = (await answer.text())[:200]
                return Answer(question, f"status {answer.status}: {said}", is_right=False)
            choice = (await answer.json())["choices"][0]
            text = choice["message"].get("content") or ""
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Answer(question, f"no answer: {type(error).__name__}", is_right=False)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer(question, "an answer of another form", is_right=False)
    if not text:
        return Answer(question, f"no text ({choice.get('finish_reason')})", is_right=False)
    return Answer(question, text, question.is_answered_by(text))
