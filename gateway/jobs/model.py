"""What is a job, who works on it, and how did it end?"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

JOBS = "sluice:jobs:"  # how the keys of the store begin that are about jobs in general


class JobKind(StrEnum):
    """What is to be made."""

    VIDEO = "video"
    BATCH = "batch"


class JobStatus(StrEnum):
    """Where a job stands; the last two are ends."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


class Counter(StrEnum):
    """What is counted when a job goes back to the queue."""

    ATTEMPTS = "attempts"  # the work itself failed
    NOTHING = ""  # nobody's fault: its worker leaves


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed; safe to show to its tenant."""

    code: str
    message: str

    def encode(self) -> bytes:
        """As it is kept."""
        return orjson.dumps({"code": self.code, "message": self.message})


@dataclass(frozen=True, slots=True)
class Once:
    """How a repeated creation is recognised: `key` names it, `digest` is over what was asked.

    With `ask` a job that is known by this key is given instead of a new one; otherwise the key is
    only noted. A known key with another digest is a conflict.
    """

    key: str
    digest: str
    ttl_s: int
    ask: bool = True


@dataclass(frozen=True, slots=True)
class Quota:
    """`units` are taken from a budget of `limit` per window; `key` names tenant and window."""

    key: str
    units: float
    limit: float
    ttl_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be taken on.

    `pool` is whose replicas work on it; `payload` all that the work needs; `units` what it costs
    (pixels x frames x steps for videos). `deadline` is in Unix seconds; `ttl_s` is how long its
    record outlives its end. `traceparent` is the creating call's, empty without one.
    `tells_deadline`: a worker at work ends it itself when it is late.
    """

    id: str
    kind: JobKind
    tenant: str
    pool: str
    class_name: str
    rank: int
    payload: Mapping[str, Any]
    units: float
    deadline: float
    ttl_s: float
    key_id: str = ""
    request_id: str = ""
    traceparent: str = ""
    tells_deadline: bool = False
    idempotency: Once | None = None
    retried: Once | None = None
    quota: Quota | None = None
    most_waiting: int = 100_000


class Taken(StrEnum):
    """What became of a creation."""

    MADE = "made"
    REPLAYED = "replayed"  # it was made before
    CONFLICT = "conflict"  # the idempotency key stands for something else
    FULL = "full"
    QUOTA = "quota"
    UNKNOWN = "unknown"  # only one that was made before was wanted


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a creation; `job_id` is empty where nothing was taken on.

    `used` is what is used of the quota, where that was the reason.
    """

    taken: Taken
    job_id: str
    used: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it is kept. Instants in Unix seconds; `progress` in percent."""

    id: str
    kind: JobKind
    tenant: str
    pool: str
    class_name: str
    status: JobStatus
    payload: Mapping[str, Any]
    units: float
    created_at: float
    deadline: float
    progress: int = 0
    claimed_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    expires_at: float | None = None
    fence: int = 0
    attempts: int = 0
    losses: int = 0
    ends: int = 0
    worker: str | None = None
    replica: str | None = None
    engine: str | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    error: JobError | None = None
    late: bool = False
    key_id: str = ""
    request_id: str = ""
    traceparent: str = ""
    hidden: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in (JobStatus.COMPLETED, JobStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's right to a job: good while nobody has a higher `fence`."""

    job: Job
    fence: int
    replica_id: str | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can take from a pool: on which replicas (None: it needs none)."""

    pool: str
    classes: tuple[str, ...]
    replicas: tuple[str, ...] | None


class Standing(StrEnum):
    """What a heartbeat learns."""

    OK = "ok"
    TOLD = "told"  # it is to be brought to an early end: cancelled, or too late
    ENDED = "ended"  # somebody ended the job: cancelled, or too late
    LOST = "lost"  # it is another worker's now


def new_id(prefix: str, now: float) -> str:
    """Make an id whose order is that of creation: milliseconds, then chance."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_hex(10)}"


_KNOWN = frozenset(
    {
        *("kind", "tenant", "pool", "class", "status", "payload", "units", "created_at"),
        *("deadline", "progress", "claimed_at", "started_at", "ended_at", "expires_at", "fence"),
        *("attempts", "losses", "ends", "worker", "replica", "engine", "result", "error", "late"),
        *("key_id", "request_id", "rank", "ttl_s", "seq", "stream", "entry", "lease_until"),
        *("ended_fence", "first_claimed_at", "at_deadline", "quota_key", "hidden", "traceparent"),
    }
)


def job_of(job_id: str, fields: Mapping[str, str]) -> Job:
    """Read a job from the fields of its hash."""

    def instant(name: str) -> float | None:
        return float(fields[name]) if fields.get(name) else None

    error = orjson.loads(fields["error"]) if fields.get("error") else None
    return Job(
        id=job_id,
        kind=JobKind(fields["kind"]),
        tenant=fields["tenant"],
        pool=fields["pool"],
        class_name=fields["class"],
        status=JobStatus(fields["status"]),
        payload=orjson.loads(fields["payload"]),
        units=float(fields["units"]),
        created_at=float(fields["created_at"]),
        deadline=float(fields["deadline"]),
        progress=int(float(fields.get("progress") or 0)),
        claimed_at=instant("claimed_at"),
        started_at=instant("started_at"),
        ended_at=instant("ended_at"),
        expires_at=instant("expires_at"),
        fence=int(fields.get("fence") or 0),
        attempts=int(fields.get("attempts") or 0),
        losses=int(fields.get("losses") or 0),
        ends=int(fields.get("ends") or 0),
        worker=fields.get("worker"),
        replica=fields.get("replica") or None,
        engine=fields.get("engine") or None,
        result=orjson.loads(fields["result"]) if fields.get("result") else {},
        error=None if error is None else JobError(error["code"], error["message"]),
        late=fields.get("late") == "1",
        key_id=fields.get("key_id", ""),
        request_id=fields.get("request_id", ""),
        traceparent=fields.get("traceparent", ""),
        hidden=fields.get("hidden") == "1",
        extra={name: value for name, value in fields.items() if name not in _KNOWN},
    )
