"""How do artifacts lie in an S3-compatible store? Through obstore (the object_store crate).

An object appears whole or not at all: a multipart upload that is not completed leaves nothing to be
read. So a draft is an upload, and to commit is to complete it.
"""

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from gateway.artifacts import PIECE_BYTES, ArtifactsAway, NoArtifact, Written, check
from gateway.settings_jobs import ArtifactSettings

PART_BYTES = 8 * 1024 * 1024


class S3Artifacts:
    """Artifacts in a bucket."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    @classmethod
    def of(cls, settings: ArtifactSettings) -> "S3Artifacts":
        """Open the bucket that the settings name; without a key the environment's is taken."""
        parts = urlsplit(settings.url or "")
        more: dict[str, Any] = {"region": settings.region}
        if settings.endpoint is not None:
            more["endpoint"] = settings.endpoint
            more["virtual_hosted_style_request"] = False
        if settings.access_key_id is not None and settings.secret_access_key is not None:
            more["access_key_id"] = settings.access_key_id
            more["secret_access_key"] = settings.secret_access_key.get_secret_value()
        plain = settings.endpoint is not None and settings.endpoint.startswith("http://")
        store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options={"allow_http": plain},
            **more,
        )
        return cls(store)

    def draft(self, name: str) -> "S3Draft":
        """Begin an artifact."""
        check(name)
        return S3Draft(self._store, name)

    async def size(self, name: str) -> int:
        """Give the length in bytes."""
        check(name)
        try:
            return int((await self._store.head_async(name))["size"])
        except (NotFoundError, FileNotFoundError):
            raise NoArtifact(name) from None
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error

    async def read(self, name: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to before `end`, piece by piece."""
        check(name)
        try:
            if end is None and start == 0:
                options: Any = {}
            else:
                options = {"range": {"offset": start} if end is None else (start, end)}
            found = await self._store.get_async(name, options=options)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)
        except (NotFoundError, FileNotFoundError):
            raise NoArtifact(name) from None
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error

    async def remove(self, prefix: str) -> None:
        """Remove an artifact, or all below a path."""
        check(prefix)
        try:
            names = [prefix]
            async for batch in self._store.list(prefix=prefix):
                names += [each["path"] for each in batch]
            await self._store.delete_async(names)
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error

    async def list_old(self, prefix: str, before: float) -> list[str]:
        """Name the artifacts below a path that were last written before an instant."""
        check(prefix)
        try:
            return [
                str(each["path"])
                async for batch in self._store.list(prefix=prefix)
                for each in batch
                if each["last_modified"].timestamp() < before
            ]
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error


class S3Draft:
    """An upload that is not complete yet; in memory lies at most one part."""

    def __init__(self, store: S3Store, name: str) -> None:
        self._store = store
        self._name = name
        self._writer: Any = None
        self._digest = hashlib.sha256()
        self._size = 0

    async def write(self, data: bytes) -> None:
        """Append."""
        self._digest.update(data)
        self._size += len(data)
        try:
            if self._writer is None:
                self._writer = self._open()
                await self._writer.__aenter__()
            await self._writer.write(data)
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error

    async def commit(self) -> Written:
        """Make it appear."""
        try:
            if self._writer is None:
                await self._store.put_async(self._name, b"")
            else:
                await self._writer.close()
                self._writer = None
        except BaseError as error:
            raise ArtifactsAway(str(error)[:300]) from error
        return Written(self._name, self._size, self._digest.hexdigest())

    async def abandon(self) -> None:
        """Leave nothing that can be read; the bucket's own rule removes incomplete uploads."""
        self._writer = None

    def _open(self) -> Any:
        return obstore.open_writer_async(self._store, self._name, buffer_size=PART_BYTES)
