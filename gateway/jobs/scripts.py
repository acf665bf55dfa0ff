"""Which scripts run inside the store, and how are they called?"""

from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

NAMES = (
    *("submit", "claim", "beat", "finish", "release", "cancel", "tick", "forget", "hide"),
    *("row", "segment", "mark", "tell", "requeue"),
)


class Scripts:
    """The scripts of the jobs, loaded once per process; sent anew when the store lost them."""

    def __init__(self, redis: Redis) -> None:
        folder = files("gateway.jobs") / "lua"
        prelude = (folder / "prelude.lua").read_text(encoding="utf-8")
        self._scripts: dict[str, AsyncScript] = {
            name: redis.register_script(
                prelude + (folder / f"{name}.lua").read_text(encoding="utf-8")
            )
            for name in NAMES
        }

    async def call(self, name: str, *arguments: str | bytes | int | float) -> Any:
        """Run one; raises redis.exceptions.RedisError."""
        return await cast(Any, self._scripts[name](keys=[], args=list(arguments)))
