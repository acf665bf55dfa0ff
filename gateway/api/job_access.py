"""What do the routes of jobs share: who asks, whose job it is, and a store that is away?"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.api.intake import identify
from gateway.artifacts import ArtifactsAway
from gateway.call import Principal
from gateway.errors import Draining, NotFound, Unavailable
from gateway.jobs.model import Job, JobKind
from gateway.services import Services
from gateway.telemetry import is_traceparent

NO_STORE = {"cache-control": "no-store"}


@asynccontextmanager
async def asked(
    request: Request, *, creates: bool = False
) -> AsyncIterator[tuple[Services, Principal]]:
    """Find out who asks; within the block a store that is away is told as 503.

    What creates something counts as a request of its key and tenant: `limits_of` has the headers.
    """
    services: Services = request.app.state.services
    principal = await identify(services, request.headers)
    if creates and services.lifecycle.draining:
        raise Draining
    if creates:
        request.state.limits = await services.limits.count(principal)
    services.lifecycle.in_flight += 1
    try:
        yield services, principal
    except (RedisError, ArtifactsAway, OSError) as error:
        raise Unavailable(
            "Jobs cannot be reached at the moment. Try again.",
            code="job_store_unavailable",
            retry_after_s=2.0,
        ) from error
    finally:
        services.lifecycle.in_flight -= 1


def trace_of(request: Request) -> str:
    """Give the caller's W3C `traceparent`, empty where it sent none."""
    told = request.headers.get("traceparent")
    return told if told is not None and is_traceparent(told) else ""


def limits_of(request: Request) -> dict[str, str]:
    """Give the headers that tell what is left of the limits."""
    return {name.decode(): value.decode() for name, value in request.state.limits}


async def find_job(
    services: Services, principal: Principal, job_id: str, kind: JobKind, noun: str
) -> Job:
    """Give a tenant's job; another's is not there at all. Raises NotFound."""
    job = await services.jobs.find(job_id) if plausible(job_id) else None
    if job is None or job.kind is not kind or job.tenant != principal.tenant or job.hidden:
        raise NotFound(f"No {noun} with id '{job_id[:100]}'.", param=f"{noun}_id")
    return job


def plausible(job_id: str) -> bool:
    """Whether a text can be an id."""
    return len(job_id) <= 80 and job_id.replace("_", "").isalnum() and job_id.isascii()


def listed(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> JSONResponse:
    """Give a page, as every list here is shown."""
    return JSONResponse(
        {
            "object": "list",
            "data": list(data),
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": has_more,
        }
    )
