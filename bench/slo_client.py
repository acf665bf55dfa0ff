"""What does an open-loop crowd of callers get? Timed from the schedule, whatever the machine does.

One asyncio client. A call's TTFT runs from the instant at which it was due, so that a client that
sends late hides nothing; how late it sent is reported with the results.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import aiohttp
import orjson

TIERS = {"interactive": "priority", "server": "default", "offline": "flex"}
GIVE_UP_FIRST_S = 4.0  # callers leave that have had no token by then (offline: at the end)
GIVE_UP_S = 40.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a class promises, in seconds; None: nothing."""

    ttft_s: float | None
    tpot_s: float | None


@dataclass(frozen=True, slots=True)
class Order:
    """One call: when it is due after the start, and what it asks."""

    at_s: float
    class_name: str
    prompt_tokens: int
    output_tokens: int
    tenant: str = ""


@dataclass(slots=True)
class Result:
    """What one call got; seconds from when it was due."""

    order: Order
    late_s: float = 0.0
    status: int = 0
    code: str = ""
    retry_after_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    tokens: int = 0
    whole: bool = False
    left: bool = False

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per token after the first."""
        if not self.whole or self.first_s is None or self.last_s is None or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)

    def is_good(self, limits: Limits) -> bool:
        """Whether the whole answer came within the limits."""
        if not self.whole or self.first_s is None:
            return False
        in_time = limits.ttft_s is None or self.first_s <= limits.ttft_s
        tpot_s = self.tpot_s
        return in_time and (limits.tpot_s is None or tpot_s is None or tpot_s <= limits.tpot_s)


@dataclass(slots=True)
class Load:
    """A mix of calls."""

    classes: Mapping[str, float] = field(default_factory=lambda: {"interactive": 1.0})
    prompt_tokens: tuple[int, int] = (40, 190)
    output_tokens: tuple[int, int] = (32, 96)


def schedule(per_s: float, seconds: float, load: Load, seed: int) -> list[Order]:
    """Draw a Poisson schedule; the same seed gives the same one."""
    dice = Random(seed)
    names, shares = zip(*load.classes.items(), strict=True)
    orders: list[Order] = []
    at_s = 0.0
    while (at_s := at_s + dice.expovariate(per_s)) < seconds:
        orders.append(
            Order(
                at_s,
                dice.choices(names, shares)[0],
                dice.randint(*load.prompt_tokens),
                dice.randint(*load.output_tokens),
            )
        )
    return orders


async def send(url: str, model: str, orders: Sequence[Order], seed: int) -> list[Result]:
    """Send every call when it is due; give what each got."""
    loop = asyncio.get_running_loop()
    dice = Random(seed)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        start = loop.time() + 0.2
        tasks: list[asyncio.Task[Result]] = []
        for order in orders:
            body = body_of(model, order, dice)
            due = start + order.at_s
            if (pause_s := due - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            tasks.append(asyncio.create_task(_one(session, url, body, order, due)))
        return await asyncio.gather(*tasks)


async def _one(
    session: aiohttp.ClientSession, url: str, body: bytes, order: Order, due: float
) -> Result:
    loop = asyncio.get_running_loop()
    result = Result(order, late_s=max(loop.time() - due, 0.0))
    first_by = due + (GIVE_UP_S if order.class_name == "offline" else GIVE_UP_FIRST_S)
    try:
        async with asyncio.timeout_at(first_by) as patience:
            async with session.post(
                url + "/chat/completions", data=body, headers={"content-type": "application/json"}
            ) as answer:
                result.status = answer.status
                if answer.status != 200:
                    await _refused(answer, result)
                    return result
                async for piece in answer.content.iter_any():
                    now = loop.time()
                    if b'"content":' in piece:
                        if result.first_s is None:
                            result.first_s = now - due
                            patience.reschedule(due + GIVE_UP_S)
                        result.last_s = now - due
                    if b"data: [DONE]" in piece:
                        result.whole = True
    except TimeoutError:
        result.left = True
    except aiohttp.ClientError as error:
        result.code = type(error).__name__
    result.tokens = order.output_tokens if result.whole else 0
    return result


async def _refused(answer: aiohttp.ClientResponse, result: Result) -> None:
    found = await answer.read()
    try:
        result.code = str(orjson.loads(found)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        result.code = "?"
    told = answer.headers.get("retry-after")
    result.retry_after_s = float(told) if told else None


def body_of(model: str, order: Order, dice: Random) -> bytes:
    count = max(int(0.8 * order.prompt_tokens) - 4, 1)  # five bytes each; the template has some
    words = " ".join(f"{dice.randrange(10**4):04d}" for _ in range(count))
    return orjson.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": words}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": order.output_tokens,
            "ignore_eos": True,
            "service_tier": TIERS[order.class_name],
        }
    )
