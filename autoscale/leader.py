"""Which of several autoscalers acts? The one that holds the lease; the others stand by.

A lease has a fencing number that grows with every new holder: what an old leader wrote late is
told from what the new one writes.
"""

from dataclasses import dataclass

from redis.asyncio import Redis

KEY = "sluice:autoscale:leader"
FENCE_KEY = "sluice:autoscale:fence"

# KEYS: lease, fence. ARGV: name, milliseconds. Gives the holder's fencing number, 0 to the others.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if not holder then
  local fence = redis.call('INCR', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. fence, 'PX', ARGV[2])
  return fence
end
local name, fence = string.match(holder, '^(.*) (%d+)$')
if name ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(fence)
"""
_LEAVE = """
local holder = redis.call('GET', KEYS[1])
if holder and string.match(holder, '^(.*) %d+$') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that we hold."""

    fence: int


class Leadership:
    """One candidate; `name` is unique among all processes."""

    def __init__(self, store: Redis, name: str, *, lease_s: float = 15.0) -> None:
        self.name = name
        self.lease_s = lease_s
        self._hold = store.register_script(_HOLD)
        self._leave = store.register_script(_LEAVE)

    async def hold(self) -> Held | None:
        """Take or keep the lease; None while another holds it. Raises RedisError."""
        fence = await self._hold(keys=[KEY, FENCE_KEY], args=[self.name, int(self.lease_s * 1000)])
        return Held(int(fence)) if int(fence) else None

    async def leave(self) -> None:
        """Give the lease up, so that a standby need not wait for its end. Raises RedisError."""
        await self._leave(keys=[KEY], args=[self.name])
