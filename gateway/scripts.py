"""How does a Lua script run in the store?

By its digest; the store is sent the text when it does not have it, the first time or after a
restart. The scripts lie beside the modules that use them and need nothing newer than Redis 7.0. A
line `--+ FILE` in one stands for the text of that file: a long script is a list of its parts.
"""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from gateway.line import Line
from gateway.replies import answer

_PART = "--+ "


class Script:
    """A script of one package, read when it is made."""

    def __init__(self, package: str, name: str) -> None:
        self.text = _joined(files(package) / "lua", name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: list[str], arguments: list[Any]) -> Any:
        """Run it. Raises redis.RedisError; a script that must not run twice has to see to it."""
        try:
            return await answer(redis.evalsha(self.digest, len(keys), *keys, *arguments))
        except NoScriptError:
            return await answer(redis.eval(self.text, len(keys), *keys, *arguments))

    async def on(self, line: Line, keys: list[str], arguments: list[Any]) -> Any:
        """Run it on a line, where every call runs one."""
        try:
            return await line.ask("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except ResponseError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await line.ask("EVAL", self.text, len(keys), *keys, *arguments)


def _joined(folder: Traversable, name: str) -> str:
    """Read a script with its parts in place."""
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(
        _joined(folder, line.removeprefix(_PART)) if line.startswith(_PART) else line
        for line in lines
    )
