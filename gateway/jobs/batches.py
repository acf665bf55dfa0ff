"""Which rows of a batch are done, and where do their lines lie until the batch is?

Next to the job's hash: `:rows` is a bit per finished row, `:lines` the lines that no artifact has
yet, `:out` and `:err` name the artifacts that have the others. A row is counted when its bit is
set, by the worker that holds the job, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.jobs.model import Claim
from gateway.jobs.store import JobStore
from gateway.replies import answer


class Kept(StrEnum):
    """What became of a finished row."""

    OK = "ok"
    KNOWN = "known"  # it was finished before
    LOST = "lost"  # the batch is another worker's


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a row used."""

    prompt: int = 0
    completion: int = 0


class RowStore:
    """The rows of batches; methods raise redis.exceptions.RedisError and may be repeated."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def mark(self, claim: Claim, **notes: str | int | float) -> bool:
        """Note something about a batch; False when it is another worker's."""
        words = [str(word) for pair in notes.items() for word in pair]
        found = await self._jobs.scripts.call("mark", claim.job.id, claim.fence, *words)
        return bool(found == b"ok")

    async def keep(
        self, claim: Claim, index: int, line: bytes, *, done_well: bool, tokens: Tokens
    ) -> Kept:
        """Count a finished row and keep its line."""
        found = await self._jobs.scripts.call(
            "row",
            *(claim.job.id, claim.fence, index, int(done_well), line),
            *(tokens.prompt, tokens.completion),
        )
        return Kept(found.decode())

    async def finished(self, claim: Claim) -> bytes:
        """Give the bits of the rows that are finished."""
        found = await answer(self._jobs.redis.get(f"sluice:job:{claim.job.id}:rows"))
        return found or b""

    async def lines(self, claim: Claim) -> dict[str, bytes]:
        """Give the lines that no artifact has; a field is `1` (done well) or `0`, then the row."""
        found = await answer(self._jobs.redis.hgetall(f"sluice:job:{claim.job.id}:lines"))
        return {name.decode(): line for name, line in found.items()}

    async def move(self, claim: Claim, artifacts: Mapping[str, str], fields: Sequence[str]) -> bool:
        """Note that lines have reached artifacts, by list (`out`, `err`); False when it is lost."""
        words = [word for pair in artifacts.items() for word in pair]
        found = await self._jobs.scripts.call(
            "segment", claim.job.id, claim.fence, len(artifacts), *words, *fields
        )
        return bool(found == b"ok")

    async def segments(self, claim: Claim, which: str) -> list[str]:
        """Name the artifacts of finished rows in order."""
        key = f"sluice:job:{claim.job.id}:{which}"
        found = await answer(self._jobs.redis.lrange(key, 0, -1))
        return [each.decode() for each in found]

    async def cancel(self, job_id: str, *, now: float) -> None:
        """Ask for a batch's early end."""
        await self._jobs.scripts.call("tell", job_id, now)


def is_set(bits: bytes, index: int) -> bool:
    """Whether a row's bit is set, in Redis's order of bits."""
    byte = index >> 3
    return byte < len(bits) and bool(bits[byte] >> (7 - (index & 7)) & 1)
