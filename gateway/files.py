"""Which files does a tenant have here, and where do their bytes lie?

A file is the hash `sluice:file:<id>`; a tenant's files are ordered in `sluice:files:<tenant>` by
their ids, which tell the instant of creation. Bytes are artifacts under `files/<id>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from gateway.artifacts import Artifacts, NoArtifact, Written
from gateway.errors import BodyTooLarge, NotFound
from gateway.jobs.model import new_id
from gateway.replies import answer

EXPIRING = "sluice:files:expiring"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file as it is kept; instants in Unix seconds."""

    id: str
    tenant: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    artifact: str

    def shown(self) -> dict[str, Any]:
        """Give it as callers see it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": int(self.created_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "expires_at": None if self.expires_at is None else int(self.expires_at),
            "status_details": None,
        }


class Files:
    """Files in the store; methods raise redis.exceptions.RedisError and ArtifactsAway."""

    def __init__(self, redis: Redis, artifacts: Artifacts) -> None:
        self._redis = redis
        self._artifacts = artifacts

    async def add(
        self,
        tenant: str,
        written: Written,
        *,
        filename: str,
        purpose: str,
        now: float,
        expires_at: float | None = None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Give committed bytes a name that a tenant can use."""
        file = StoredFile(
            id=file_id or new_id("file-", now),
            tenant=tenant,
            filename=filename[:255],
            purpose=purpose,
            size_bytes=written.size_bytes,
            created_at=now,
            expires_at=expires_at,
            artifact=written.name,
        )
        fields = {
            "tenant": tenant,
            "filename": file.filename,
            "purpose": purpose,
            "bytes": str(file.size_bytes),
            "created_at": f"{now:.6f}",
            "expires_at": "" if expires_at is None else f"{expires_at:.6f}",
            "artifact": written.name,
        }
        async with self._redis.pipeline(transaction=True) as batch:
            batch.hset(f"sluice:file:{file.id}", mapping=cast(dict[Any, Any], fields))
            batch.zadd(_index(tenant), {file.id: 0})
            if expires_at is not None:
                batch.zadd(EXPIRING, {file.id: expires_at})
            await batch.execute()
        return file

    async def find(self, tenant: str, file_id: str, *, param: str = "id") -> StoredFile:
        """Give a tenant's file; raises NotFound, which names the parameter at fault."""
        found = await answer(self._redis.hgetall(f"sluice:file:{file_id}"))
        file = _file(file_id, found)
        if file is None or file.tenant != tenant:
            raise NotFound(f"No such File object: {file_id[:100]}", param=param)
        return file

    async def page(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        purpose: str | None,
    ) -> tuple[list[StoredFile], bool]:
        """Give a tenant's files in order of creation, and whether more follow."""
        files: list[StoredFile] = []
        start, end = ("+", "-") if newest_first else ("-", "+")
        while True:
            ids = await answer(
                self._redis.zrange(
                    _index(tenant),
                    cast(Any, f"({after}" if after else start),
                    cast(Any, end),
                    desc=newest_first,
                    bylex=True,
                    offset=0,
                    num=limit + 1,
                )
            )
            names = [each.decode() for each in ids]
            files += [
                file
                for file in await self._find_all(names)
                if purpose is None or file.purpose == purpose
            ]
            if len(files) > limit:
                return files[:limit], True
            if len(names) <= limit:
                return files, False
            after = names[-1]

    async def content(
        self, tenant: str, file_id: str, *, most_bytes: int, param: str = "id"
    ) -> bytes:
        """Give a small file's bytes; raises NotFound, BodyTooLarge."""
        file = await self.find(tenant, file_id, param=param)
        if file.size_bytes > most_bytes:
            raise BodyTooLarge(f"The file is larger than {most_bytes} bytes.")
        try:
            return b"".join([piece async for piece in self._artifacts.read(file.artifact)])
        except NoArtifact:
            raise NotFound(f"No such File object: {file_id[:100]}", param=param) from None

    async def remove(self, file: StoredFile) -> None:
        """Forget a file and its bytes."""
        async with self._redis.pipeline(transaction=True) as batch:
            batch.delete(f"sluice:file:{file.id}")
            batch.zrem(_index(file.tenant), file.id)
            batch.zrem(EXPIRING, file.id)
            await batch.execute()
        await self._artifacts.remove(file.artifact)

    async def holds(self, artifact: str) -> bool:
        """Whether an artifact belongs to a file that is known."""
        file_id = artifact.removeprefix("files/").partition(".")[0]
        found = await answer(self._redis.hget(f"sluice:file:{file_id}", "artifact"))
        return found is not None and found.decode() == artifact

    async def remove_expired(self, *, now: float) -> int:
        """Remove the files whose time is over; gives how many."""
        ids = await answer(self._redis.zrangebyscore(EXPIRING, "-inf", now, start=0, num=100))
        files = await self._find_all([each.decode() for each in ids])
        for file in files:
            await self.remove(file)
        if gone := {each.decode() for each in ids} - {file.id for file in files}:
            await answer(self._redis.zrem(EXPIRING, *gone))
        return len(files)

    async def _find_all(self, ids: list[str]) -> list[StoredFile]:
        async with self._redis.pipeline(transaction=False) as batch:
            for each in ids:
                batch.hgetall(f"sluice:file:{each}")
            found = await batch.execute()
        files = (_file(id_, fields) for id_, fields in zip(ids, found, strict=True))
        return [file for file in files if file is not None]


def _file(file_id: str, fields: Mapping[bytes, bytes]) -> StoredFile | None:
    if not fields:
        return None
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return StoredFile(
        id=file_id,
        tenant=text["tenant"],
        filename=text["filename"],
        purpose=text["purpose"],
        size_bytes=int(text["bytes"]),
        created_at=float(text["created_at"]),
        expires_at=float(text["expires_at"]) if text["expires_at"] else None,
        artifact=text["artifact"],
    )


def _index(tenant: str) -> str:
    return f"sluice:files:{tenant}"
