"""Where do results lie, and how does one appear whole or not at all?

An artifact's name is a path such as `videos/<job>/<fence>/video.mp4`. What is written goes to a
temporary name first; only a committed one is read. The name holds the fencing token of who wrote
it, and the job's record says which one counts, so two writers never meet in one artifact.
"""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

PIECE_BYTES = 256 * 1024
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")


class NoArtifact(Exception):
    """There is no artifact of that name."""


class ArtifactsAway(Exception):
    """The place of the artifacts cannot be reached now."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was committed: its name, length in bytes and SHA-256 (hex)."""

    name: str
    size_bytes: int
    sha256: str


class Draft(Protocol):
    """An artifact that is being written."""

    async def write(self, data: bytes) -> None:
        """Append."""
        ...

    async def commit(self) -> Written:
        """Make it appear under its name, whole; replaces what was there."""
        ...

    async def abandon(self) -> None:
        """Leave nothing; after `commit` it does nothing."""
        ...


class Artifacts(Protocol):
    """A place for artifacts. Methods raise ArtifactsAway, and NoArtifact where one is asked for."""

    def draft(self, name: str) -> Draft:
        """Begin an artifact."""
        ...

    async def size(self, name: str) -> int:
        """Give the length in bytes."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to before `end`, piece by piece."""
        ...

    async def remove(self, prefix: str) -> None:
        """Remove an artifact, or all below a path; nothing there is no fault."""
        ...

    async def list_old(self, prefix: str, before: float) -> list[str]:
        """Name the artifacts below a path that were last written before an instant."""
        ...


class LocalArtifacts:
    """Artifacts in a directory."""

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._scratch = directory / ".writing"

    def draft(self, name: str) -> "LocalDraft":
        """Begin an artifact."""
        return LocalDraft(name, self._path(name), self._scratch)

    async def size(self, name: str) -> int:
        """Give the length in bytes."""
        try:
            return (await asyncio.to_thread(self._path(name).stat)).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise NoArtifact(name) from None
        except OSError as error:
            raise ArtifactsAway(str(error)) from error

    async def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to before `end`, piece by piece."""
        try:
            file = await asyncio.to_thread(self._path(name).open, "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NoArtifact(name) from None
        except OSError as error:
            raise ArtifactsAway(str(error)) from error
        with file:
            left = None if end is None else end - start
            file.seek(start)
            while left is None or left > 0:
                wanted = PIECE_BYTES if left is None else min(left, PIECE_BYTES)
                piece = await asyncio.to_thread(file.read, wanted)
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece

    async def remove(self, prefix: str) -> None:
        """Remove an artifact, or all below a path."""
        await asyncio.to_thread(_remove, self._path(prefix))

    async def list_old(self, prefix: str, before: float) -> list[str]:
        """Name the artifacts below a path that were last written before an instant."""
        return await asyncio.to_thread(self._list_old, prefix, before)

    def _list_old(self, prefix: str, before: float) -> list[str]:
        for leftover in self._scratch.glob("*"):
            if _age(leftover) < before:
                leftover.unlink(missing_ok=True)
        top = self._path(prefix)
        files = (each for each in top.rglob("*") if each.is_file())
        return sorted(str(each.relative_to(self._root)) for each in files if _age(each) < before)

    def _path(self, name: str) -> Path:
        check(name)
        return self._root / name


class LocalDraft:
    """A file that is being written."""

    def __init__(self, name: str, target: Path, scratch: Path) -> None:
        self._name = name
        self._target = target
        self._path = scratch / secrets.token_hex(12)
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._size = 0

    async def write(self, data: bytes) -> None:
        """Append."""
        self._digest.update(data)
        self._size += len(data)
        try:
            if self._file is None:
                self._file = await asyncio.to_thread(self._open)
            await asyncio.to_thread(self._file.write, data)
        except OSError as error:
            raise ArtifactsAway(str(error)) from error

    async def commit(self) -> Written:
        """Make it appear under its name."""
        try:
            await asyncio.to_thread(self._commit)
        except OSError as error:
            raise ArtifactsAway(str(error)) from error
        return Written(self._name, self._size, self._digest.hexdigest())

    async def abandon(self) -> None:
        """Leave nothing."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None

    def _open(self) -> IO[bytes]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("wb")

    def _commit(self) -> None:
        file = self._file or self._open()
        self._file = None
        with file:
            file.flush()
            os.fsync(file.fileno())
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(self._target)
        _sync(self._target.parent)


def check(name: str) -> None:
    """Raise ValueError for what is not a plain relative path."""
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"not an artifact's name: {name[:200]!r}")


async def put(artifacts: Artifacts, name: str, data: bytes) -> Written:
    """Write a small artifact at once."""
    draft = artifacts.draft(name)
    try:
        await draft.write(data)
        return await draft.commit()
    finally:
        await draft.abandon()


async def get(artifacts: Artifacts, name: str) -> bytes:
    """Read a small artifact at once."""
    return b"".join([piece async for piece in artifacts.read(name)])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _sync(directory: Path) -> None:
    """Have a new name survive the machine's end, too."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
