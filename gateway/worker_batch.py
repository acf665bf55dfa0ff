"""How does a batch get done? Review all lines -> run the rows that are not finished -> two files.

A row counts when the store has its line; what is finished is not run again, whoever goes on. Lines
wait in the store until some hundred of them move into an artifact, which keeps the store small.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from backends.slo import Class
from gateway.artifacts import Artifacts, ArtifactsAway, NoArtifact, Written
from gateway.call import Principal
from gateway.errors import NotFound
from gateway.files import Files, StoredFile
from gateway.jobs.batches import RowStore
from gateway.jobs.model import Job, Offer
from gateway.services import Services
from gateway.wire.batches import LineError, Review, Row, read_row
from gateway.worker import Done, JobFailed, TryAgain
from gateway.worker_hold import Hold
from gateway.worker_lines import Crew, Lines, Lost, lines_of, persist
from gateway.worker_rows import RowServer
from gateway.worker_yield import Yielding

BATCH_POOL = "@batch"

_log = structlog.get_logger("worker")

UNRUN = {
    "expired": LineError(
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": LineError("batch_cancelled", "The batch was cancelled before this request."),
}


class BatchRunner:
    """Works on batches."""

    def __init__(
        self,
        services: Services,
        yielding: Yielding,
        *,
        at_most: int,
        rows_in_flight: int,
        most_rows: int,
    ) -> None:
        self._services = services
        self._artifacts: Artifacts = services.artifacts
        self._files: Files = services.files
        self._rows = RowStore(services.jobs)
        self._server = RowServer(services, yielding)
        self._at_most = at_most
        self._in_flight = rows_in_flight
        self._most_rows = most_rows
        self._running = 0

    def offers(self) -> list[Offer]:
        """Offer to take one more, up to a bound."""
        if self._running >= self._at_most:
            return []
        return [Offer(BATCH_POOL, (batch_class(self._services.classes),), None)]

    async def run(self, hold: Hold) -> Done:
        """Do the batch, or what is left of it."""
        self._running += 1
        try:
            return await self._run(hold)
        except ArtifactsAway as error:
            _log.warning("artifacts_away", job=hold.claim.job.id, error=str(error)[:300])
            raise TryAgain("the artifact store does not answer", delay_s=5.0) from None
        except Lost:
            await asyncio.Event().wait()  # the hold knows it, too, and ends this
            raise
        finally:
            self._running -= 1

    async def abandon(self, hold: Hold) -> None:
        """Nothing is left where rows have been cancelled."""

    async def _run(self, hold: Hold) -> Done:
        job = hold.claim.job
        hold.started = True
        file = await self._input(job)
        if "in_progress_at" not in job.extra:
            await self._review(hold, file)
        lines = Lines(hold, self._rows, self._artifacts)
        await lines.open()
        await self._work(hold, file, lines)
        state = self._state(hold)
        return await self._finish(hold, file, lines, state)

    async def _input(self, job: Job) -> StoredFile:
        try:
            file = await self._files.find(job.tenant, str(job.payload["input_file_id"]))
            await self._artifacts.size(file.artifact)
        except (NotFound, NoArtifact):
            error = LineError("invalid_request", "The input file was not found.", "file_id")
            raise JobFailed("invalid_batch", error.message, _failed([error])) from None
        return file

    async def _review(self, hold: Hold, file: StoredFile) -> None:
        """Look at every line before any is run."""
        job, now = hold.claim.job, self._services.clock.now
        principal = principal_of(job)
        known = {m for m in self._services.models() if principal.may_use_model(m)}
        review = Review(str(job.payload["endpoint"]), known, most_rows=self._most_rows)
        async for number, raw in lines_of(self._artifacts, file.artifact):
            review.take(raw, number)
            if number % 200 == 0:
                await asyncio.sleep(0)  # a long file must not stop the heartbeat
        if errors := review.finish():
            await self._mark(hold, rows_total=review.total)
            raise JobFailed("invalid_batch", "The input file is not valid.", _failed(errors))
        await self._mark(
            hold,
            rows_total=review.total,
            model=review.model or "",
            in_progress_at=now(),
        )

    async def _work(self, hold: Hold, file: StoredFile, lines: Lines) -> None:
        """Run the rows that are not finished, some at once, until all are or the end is wanted."""
        job = hold.claim.job
        principal, endpoint = await self._limited(principal_of(job)), str(job.payload["endpoint"])

        async def one(index: int, row: Row) -> None:
            answered = await self._server.serve(job, principal, row, endpoint)
            await lines.keep(index, row.custom_id, answered)

        async with Crew(self._in_flight, hold.told) as crew:
            async for number, raw in lines_of(self._artifacts, file.artifact):
                if lines.is_finished(number - 1):
                    continue
                row = read_row(raw, number, endpoint)
                # One that the review let pass is a row: it saw the same bytes.
                if isinstance(row, Row) and not await crew.start(partial(one, number - 1, row)):
                    break
            await crew.finish()

    async def _limited(self, principal: Principal) -> Principal:
        """Give who asked with the key's limits as they are now; the tenant's hold besides."""
        record = await persist(lambda: self._services.keys.find(principal.key_id))
        return (
            principal if record is None else replace(principal, quota=record.grant.quota.or_none())
        )

    def _state(self, hold: Hold) -> str:
        if not hold.told.is_set():
            return "completed"
        late = self._services.clock.now() >= hold.claim.job.deadline
        return "expired" if late else "cancelled"

    async def _finish(self, hold: Hold, file: StoredFile, lines: Lines, state: str) -> Done:
        """Tell of the rows that were not run, and put the two files together."""
        await self._mark(hold, finalizing_at=self._services.clock.now())
        if state in UNRUN:
            await self._tell_unrun(hold, file, lines, UNRUN[state])
        await lines.move()
        result: dict[str, Any] = {"state": state}
        for which, name in (("out", "output"), ("err", "error")):
            made = await self._join(hold, which, name)
            if made is not None:
                result[f"{name}_file_id"] = made.id
        return Done(result)

    async def _tell_unrun(self, hold: Hold, file: StoredFile, lines: Lines, why: LineError) -> None:
        endpoint = str(hold.claim.job.payload["endpoint"])
        async for number, raw in lines_of(self._artifacts, file.artifact):
            if lines.is_finished(number - 1):
                continue
            row = read_row(raw, number, endpoint)
            if isinstance(row, Row):
                await lines.keep_unrun(number - 1, row.custom_id, why)

    async def _join(self, hold: Hold, which: str, name: str) -> StoredFile | None:
        """Make one file of the artifacts of finished rows; its id follows from the batch's."""
        claim = hold.claim
        job = claim.job
        segments = await persist(lambda: self._rows.segments(claim, which))
        if not segments:
            return None
        file_id = f"file-{job.id.removeprefix('batch_')}{name}"
        draft = self._artifacts.draft(f"files/{file_id}.{claim.fence}")
        try:
            for segment in segments:
                async for piece in self._artifacts.read(segment):
                    await draft.write(piece)
            written: Written = await draft.commit()
        finally:
            await draft.abandon()
        now = self._services.clock.now()
        lives_s = job.payload.get("output_expires_s")
        made: StoredFile = await persist(
            lambda: self._files.add(
                job.tenant,
                written,
                filename=f"{job.id}_{name}.jsonl",
                purpose="batch_output",
                now=now,
                expires_at=None if lives_s is None else job.created_at + float(lives_s),
                file_id=file_id,
            )
        )
        return made

    async def _mark(self, hold: Hold, **notes: str | int | float) -> None:
        if not await persist(lambda: self._rows.mark(hold.claim, **notes)):
            raise Lost


def batch_class(classes: Mapping[str, Class]) -> str:
    """Name the class that batches run under: `offline`, else the one that is served last."""
    if "offline" in classes:
        return "offline"
    return max(classes, key=lambda name: classes[name].rank)


def principal_fields(principal: Principal) -> dict[str, Any]:
    """Give who asked as it is kept with a job."""
    return {
        "key_id": principal.key_id,
        "tenant": principal.tenant,
        "name": principal.name,
        "models": None if principal.models is None else sorted(principal.models),
        "default_class": principal.default_class,
    }


def principal_of(job: Job) -> Principal:
    """Give who asked; the class is the job's, so that the key's classes do not matter here."""
    kept = job.payload["principal"]
    models = kept["models"]
    return Principal(
        key_id=kept["key_id"],
        tenant=kept["tenant"],
        name=kept["name"],
        models=None if models is None else frozenset(models),
        default_class=kept["default_class"],
    )


def _failed(errors: list[LineError]) -> dict[str, Any]:
    return {"state": "failed", "errors": [each.shown() for each in errors]}
