"""May this key and this tenant call once more, and how much is left of their limits?

Requests, tokens and calls at once, per key and per tenant, exact over all gateways: a call is
reserved at its estimated size before it is routed, and settled on what it really used. While the
store is away each gateway enforces its share (`limits_local`).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from backends.clock import Clock
from gateway.call import Call, Principal, Quota, Receipt
from gateway.errors import GatewayError, InsufficientQuota, RateLimited
from gateway.ids import new_id
from gateway.limits_local import LocalLimits
from gateway.limits_store import Answer, LimitStore, Room, StoreAway

RENEW_S = 10.0  # calls count as lost 30 s after they were last heard of

_UNITS = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrency": "requests at once",
}
_NONE: Mapping[str, Quota] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Claim:
    """What was reserved for a call, until it is settled. `local`: not in the store."""

    call_id: str
    tenant: str
    tokens: int
    quotas: Mapping[str, Quota]
    local: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


class Limiter:
    """The stage between who calls and where to. `run` must run beside it."""

    def __init__(
        self,
        store: LimitStore,
        clock: Clock,
        *,
        tenants: Mapping[str, Quota] = _NONE,
        gateways: Callable[[], int] = lambda: 1,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tenants = tenants
        self._gateways = gateways
        self._local = LocalLimits()
        self._claims: dict[str, Claim] = {}

    def concern(self, principal: Principal) -> bool:
        """Say whether there are limits for a caller at all."""
        return principal.quota is not None or principal.tenant in self._tenants

    async def reserve(self, call: Call, tokens: Callable[[], float]) -> Claim | None:
        """Reserve a call of about so many tokens; None for a caller without limits.

        Raises RateLimited or InsufficientQuota. `settle` must follow.
        """
        quotas = self._quotas(call.principal)
        if not quotas:
            return None
        tenant, size = call.principal.tenant, max(1, round(tokens()))
        local = False
        try:
            answer = await self._store.reserve(tenant, call.key, size, quotas)
        except StoreAway:
            local = True
            among = max(1, self._gateways())
            now = self._clock.monotonic()
            answer = self._local.reserve(call.key, size, quotas, among, now)
        except BaseException:  # it leaves, and may have been reserved
            self._store.settle(tenant, call.key, 0, counts=False)
            raise
        if answer.exhausted is not None:
            raise _refusal(answer, size)
        claim = Claim(call.key, tenant, size, quotas, local, _headers(answer))
        self._claims[call.key] = claim
        return claim

    async def count(self, principal: Principal) -> tuple[tuple[bytes, bytes], ...]:
        """Count a request that is no call, such as a job's creation; gives the limits' headers.

        Its tokens are counted when the job is worked on. Raises RateLimited or InsufficientQuota.
        """
        quotas = self._quotas(principal)
        if not quotas:
            return ()
        tenant, request = principal.tenant, new_id()
        try:
            answer = await self._store.reserve(tenant, request, 1, quotas)
        except StoreAway:
            return ()  # jobs are in the same store
        if answer.exhausted is not None:
            raise _refusal(answer, 1)
        self._store.settle(tenant, request, 0, counts=True)
        return _headers(answer)

    def settle(self, claim: Claim | None, receipt: Receipt) -> None:
        """Book what a call really used: nothing at all where no replica was tried."""
        if claim is None or self._claims.pop(claim.call_id, None) is None:
            return
        if claim.local:
            self._local.end(claim.call_id, claim.quotas)
            return
        used = _used(claim, receipt)
        self._store.settle(claim.tenant, claim.call_id, used, counts=receipt.attempts > 0)

    async def run(self) -> None:
        """Keep long calls counted, and settle what could not be settled, for ever."""
        while True:
            await self._clock.sleep(RENEW_S)
            for claim in self._claims.values():
                if any(quota.concurrency is not None for quota in claim.quotas.values()):
                    self._store.renew(claim.tenant, [claim.call_id])
            self._store.retry()

    async def aclose(self) -> None:
        """Settle what is left."""
        async with asyncio.timeout(2.0):
            await self._store.flush()

    def _quotas(self, principal: Principal) -> Mapping[str, Quota]:
        of_tenant = self._tenants.get(principal.tenant)
        if principal.quota is None and of_tenant is None:
            return _NONE
        found = {
            f"key:{principal.key_id}": principal.quota,
            f"tenant:{principal.tenant}": of_tenant,
        }
        return {name: quota for name, quota in found.items() if quota is not None}


def _used(claim: Claim, receipt: Receipt) -> int:
    """Give the tokens of a call; the estimate where its answer broke off before it was counted."""
    if receipt.usage is not None:
        return receipt.usage.prompt_tokens + receipt.usage.completion_tokens
    return 0 if receipt.first_byte is None else claim.tokens


def _refusal(answer: Answer, size: int) -> GatewayError:
    headers = {name.decode(): value.decode() for name, value in _headers(answer)}
    match answer.exhausted:
        case "day" | "month":
            return InsufficientQuota(
                f"The {answer.exhausted}'s budget of {answer.limit} tokens does not hold another"
                f" call of about {size} tokens."
            )
        case "size":
            return RateLimited(
                f"The request is too large: about {size} tokens, and the limit is {answer.limit}"
                " tokens per minute.",
                unit="tokens",
                final=True,
                headers=headers,
            )
        case unit:
            return RateLimited(
                f"The limit of {answer.limit} {_UNITS[unit or 'requests']} is reached."
                + ("" if answer.after_s < 0 else f" Try again in {answer.after_s:.3f} s."),
                unit="tokens" if unit == "tokens" else "requests",
                retry_after_s=None if answer.after_s < 0 else answer.after_s,
                final=answer.after_s < 0,
                headers=headers,
            )


def _headers(answer: Answer) -> tuple[tuple[bytes, bytes], ...]:
    found: list[tuple[bytes, bytes]] = []
    for name, room in (("requests", answer.requests), ("tokens", answer.tokens)):
        if room is not None:
            found += _lines(name, room)
    return tuple(found)


def _lines(name: str, room: Room) -> list[tuple[bytes, bytes]]:
    values = {"limit": room.limit, "remaining": room.remaining, "reset": span(room.reset_s)}
    return [(f"x-ratelimit-{w}-{name}".encode(), str(v).encode()) for w, v in values.items()]


def span(seconds: float) -> str:
    """Write a time as OpenAI does: `12ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
