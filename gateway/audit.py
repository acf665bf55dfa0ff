"""Who has changed what by the admin API? One JSON line per change, kept on the disk.

The log on stderr has the same lines; whoever loses that still has this file. It is opened for each
line, so that it may be moved away (logrotate) at any time.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog

from backends.clock import Clock

_log = structlog.get_logger("admin")


class AuditFailed(OSError):
    """The file cannot be written."""


class Audit:
    """Writes lines; `path` None: to the log alone. Its values are ids and addresses, no secrets."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()

    async def check(self) -> None:
        """Open the file once; raises AuditFailed where it cannot be written."""
        if self._path is not None:
            try:
                await asyncio.to_thread(_append, self._path, b"")
            except OSError as error:
                raise AuditFailed(f"audit_file: {self._path} cannot be written: {error}") from error

    async def write(self, action: str, actor: str, **what: object) -> None:
        """Note a change that was made; on the disk when this returns.

        The change stands whether or not it can be noted: what the disk refuses is an error in the
        log, which has the line as well.
        """
        _log.info("admin_write", action=action, actor=actor, **what)
        try:
            await self.append(action, actor, **what)
        except AuditFailed as error:
            _log.error("audit_not_written", action=action, why=str(error))

    async def append(self, action: str, actor: str, **what: object) -> None:
        """Write to the file alone; raises AuditFailed."""
        if self._path is None:
            return
        line: Mapping[str, object] = {
            "at": self._clock.now(), "action": action, "actor": actor, **what
        }  # fmt: skip
        text = orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
        try:
            async with self._one_at_a_time:
                await asyncio.to_thread(_append, self._path, text)
        except OSError as error:
            raise AuditFailed(f"{self._path} cannot be written: {error}") from error


def _append(path: Path, text: bytes) -> None:
    """Append in one write, which other processes' do not break into, and wait for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if text:
            os.write(file, text)
            os.fsync(file)
    finally:
        os.close(file)
