"""`/v1/batches`: create, look, list, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.files import expiry_s
from gateway.api.forms import named, read_document
from gateway.api.job_access import asked, find_job, limits_of, listed, plausible, trace_of
from gateway.api.job_document import BATCH_REQUEST, body
from gateway.call import Principal
from gateway.errors import Conflict, GatewayError, InvalidRequest, NotFound, QueueFull
from gateway.jobs.batches import RowStore
from gateway.jobs.model import Job, JobKind, NewJob, Taken, new_id
from gateway.repeats import Repeat, marks_of
from gateway.services import Services
from gateway.wire.batches import ENDPOINTS, metadata_of, shown, window_s
from gateway.worker_batch import BATCH_POOL, batch_class, principal_fields

router = APIRouter(prefix="/v1/batches", tags=["batches"])
_FIELDS = frozenset(
    {
        *("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"),
        "idempotency_key",
    }
)


@router.post("", openapi_extra=body(**{"application/json": BATCH_REQUEST}))
async def create_batch(request: Request) -> Response:
    """Take a batch on; the lines of its file are looked at afterwards."""
    async with asked(request, creates=True) as (services, principal):
        fields = await read_document(request, services)
        repeat = _repeat(Repeat.of(request.headers), fields)
        new = _new(fields, principal, services, repeat, request)
        refusal = await _refusal(services, principal, str(new.payload["input_file_id"]))
        # What was made before is given again, though its file may be gone by now.
        submitted = await services.jobs.submit(
            new, now=services.clock.now(), known_only=refusal is not None
        )
        match submitted.taken:
            case Taken.UNKNOWN if refusal is not None:
                raise refusal
            case Taken.CONFLICT:
                raise Conflict(
                    "This idempotency key stands for another batch.", param="idempotency_key"
                )
            case Taken.FULL | Taken.QUOTA:
                raise QueueFull(services.settings.queue.retry_after_s)
        job = await services.jobs.find(submitted.job_id)
        if job is None:
            raise GatewayError("The batch could not be read back.")
        return JSONResponse(shown(job), headers=limits_of(request))


@router.get("")
async def list_batches(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Give the tenant's batches, newest first."""
    async with asked(request) as (services, principal):
        if after is not None and not plausible(after):
            raise InvalidRequest("Invalid 'after': the id of a batch.", param="after")
        jobs, has_more = await services.jobs.page(
            JobKind.BATCH, principal.tenant, after=after, limit=limit, newest_first=True
        )
        return listed([shown(each) for each in jobs], has_more=has_more)


@router.get("/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """Say how far a batch is."""
    async with asked(request) as (services, principal):
        return JSONResponse(shown(await _find(services, principal, batch_id)))


@router.post("/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch; what is done of it can be read soon."""
    async with asked(request) as (services, principal):
        job = await _find(services, principal, batch_id)
        state = shown(job)["status"]
        if job.has_ended and state != "cancelled":
            raise Conflict(f"Cannot cancel a batch with status '{state}'.", param="batch_id")
        await RowStore(services.jobs).cancel(job.id, now=services.clock.now())
        return JSONResponse(shown(await _find(services, principal, batch_id)))


async def _find(services: Services, principal: Principal, batch_id: str) -> Job:
    return await find_job(services, principal, batch_id, JobKind.BATCH, "batch")


async def _refusal(
    services: Services, principal: Principal, file_id: str
) -> NotFound | InvalidRequest | None:
    """Say why a file cannot be a batch's input; another tenant's is not there at all."""
    try:
        file = await services.files.find(principal.tenant, file_id, param="input_file_id")
    except NotFound as error:
        return error
    if file.purpose == "batch":
        return None
    return InvalidRequest(
        f"The file '{file_id}' has the purpose '{file.purpose}'; a batch reads one of the purpose"
        " 'batch'.",
        param="input_file_id",
    )


def _repeat(repeat: Repeat, fields: dict[str, Any]) -> Repeat:
    """Take the body's own key where the headers have none."""
    key = fields.get("idempotency_key")
    if key is None or repeat.key is not None:
        return repeat
    if not isinstance(key, str) or not 0 < len(key) <= 255:
        raise InvalidRequest(
            "Invalid 'idempotency_key': a text of 1 to 255 characters.", param="idempotency_key"
        )
    return Repeat(key, repeat.retries, repeat.patience_s)


def _new(
    fields: dict[str, Any],
    principal: Principal,
    services: Services,
    repeat: Repeat,
    request: Request,
) -> NewJob:
    for name in fields:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter"
            )
    endpoint = named(fields, "endpoint")
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"Invalid value: '{endpoint[:100]}'. Supported values are: {', '.join(ENDPOINTS)}.",
            param="endpoint",
        )
    input_file_id = named(fields, "input_file_id")
    within_s = window_s(named(fields, "completion_window"))
    metadata = metadata_of(fields.get("metadata"))
    output_s = expiry_s(fields.get("output_expires_after"), "output_expires_after")
    own, retried = marks_of(repeat, principal, "batch", fields)
    now = services.clock.now()
    class_name = batch_class(services.classes)
    return NewJob(
        id=new_id("batch_", now),
        kind=JobKind.BATCH,
        tenant=principal.tenant,
        pool=BATCH_POOL,
        class_name=class_name,
        rank=services.classes[class_name].rank,
        payload={
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": fields["completion_window"],
            "metadata": metadata,
            "output_expires_s": output_s,
            "principal": principal_fields(principal),
        },
        units=0.0,
        deadline=now + within_s,
        ttl_s=services.settings.jobs.batch_ttl_s,
        key_id=principal.key_id,
        request_id=request.scope["sluice.id"],
        traceparent=trace_of(request),
        tells_deadline=True,
        idempotency=own,
        retried=retried,
        most_waiting=services.settings.jobs.most_waiting,
    )
