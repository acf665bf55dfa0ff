"""What may a line of a batch say, what is said of one that may not, and how is a batch shown? Pure.

The codes are those that OpenAI's service was recorded with.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import InvalidRequest
from gateway.jobs.model import Job, JobStatus

ENDPOINTS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("model", "messages"),
    "/v1/completions": ("model", "prompt"),
    "/v1/embeddings": ("model", "input"),
    "/v1/responses": ("model", "input"),
    "/v1/videos": ("model", "prompt"),
}
MOST_ERRORS = 1000
_WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_UNIT_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
LONGEST_WINDOW_S = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with a batch; `line` counts from 1, None where it is all of the file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def shown(self) -> dict[str, Any]:
        """Give it as callers see it."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "line": self.line,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that it asks for."""
        return str(self.body["model"])


def read_row(raw: bytes, number: int, endpoint: str) -> Row | LineError:
    """Read line `number` of a batch for an endpoint."""
    try:
        found = orjson.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return LineError("invalid_json_line", "This line is not a JSON object.", None, number)
    for name in ("custom_id", "method", "url", "body"):
        if found.get(name) in (None, ""):
            text = f"Missing required parameter: '{name}'."
            return LineError("missing_required_parameter", text, name, number)
    fault = _fault(found, endpoint)
    if fault is not None:
        return LineError(*fault, number)
    return Row(found["custom_id"], found["body"])


def _fault(found: Mapping[str, Any], endpoint: str) -> tuple[str, str, str] | None:
    """Say what is wrong with a line that has all its parts: code, message, parameter."""
    body = found["body"]
    if not isinstance(found["custom_id"], str):
        return "invalid_type", "Invalid type of 'custom_id'.", "custom_id"
    if not isinstance(body, dict):
        return "invalid_type", "Invalid type of 'body'.", "body"
    if found["method"] != "POST":
        return "invalid_method", "The method must be POST.", "method"
    if found["url"] != endpoint:
        return "invalid_url", f"The URL must be the batch's endpoint, '{endpoint}'.", "url"
    for name in ENDPOINTS[endpoint]:
        if body.get(name) in (None, ""):
            param = f"body.{name}"
            return "missing_required_parameter", f"Missing required parameter: '{param}'.", param
    if not isinstance(body["model"], str):
        return "invalid_type", "Invalid type of 'body.model'.", "body.model"
    if body.get("stream"):
        return "streaming_unsupported", "A batch does not stream.", "body.stream"
    return None


class Review:
    """Looks at all lines of a batch and keeps what is wrong; memory is a hash per custom_id."""

    def __init__(self, endpoint: str, known_models: Container[str], *, most_rows: int) -> None:
        self.errors: list[LineError] = []
        self.total = 0
        self.model: str | None = None
        self._endpoint = endpoint
        self._known = known_models
        self._most_rows = most_rows
        self._seen: set[int] = set()

    def take(self, raw: bytes, number: int) -> None:
        """Look at one line."""
        self.total += 1
        if self.total > self._most_rows:
            if self.total == self._most_rows + 1:
                most = self._most_rows
                self._note(LineError("too_many_tasks", f"A batch has up to {most} rows.", None))
            return
        row = read_row(raw, number, self._endpoint)
        if isinstance(row, LineError):
            self._note(row)
            return
        mark = hash(row.custom_id)
        if mark in self._seen:
            text = f"The custom_id '{row.custom_id[:100]}' was used before."
            self._note(LineError("duplicate_custom_id", text, "custom_id", number))
        self._seen.add(mark)
        if row.model not in self._known:
            text = f"The model '{row.model[:100]}' does not exist."
            self._note(LineError("model_not_found", text, "body.model", number))
        elif self.model is None:
            self.model = row.model
        elif row.model != self.model:
            text = f"A batch has one model; the rows before ask for '{self.model}'."
            self._note(LineError("mismatched_model", text, "body.model", number))

    def finish(self) -> list[LineError]:
        """Give all that is wrong."""
        if self.total == 0:
            self._note(LineError("empty_file", "The input file has no rows.", "input_file_id"))
        return self.errors

    def _note(self, error: LineError) -> None:
        if len(self.errors) < MOST_ERRORS:
            self.errors.append(error)


def window_s(value: object) -> float:
    """Read a completion window such as `24h` in seconds. Raises InvalidRequest."""
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    seconds = float(found[1]) * _UNIT_S[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST_WINDOW_S:
        raise InvalidRequest(
            "Invalid 'completion_window': such as '24h', '2h' or '30m', up to '14d'.",
            param="completion_window",
        )
    return seconds


def metadata_of(value: object) -> dict[str, str] | None:
    """Check metadata: 16 pairs, keys of 64 and values of 512 characters. Raises InvalidRequest."""
    if value is None:
        return None
    sound = (
        isinstance(value, dict)
        and len(value) <= 16
        and all(isinstance(k, str) and len(k) <= 64 for k in value)
        and all(isinstance(v, str) and len(v) <= 512 for v in value.values())
    )
    if not sound or not isinstance(value, dict):
        raise InvalidRequest(
            "Invalid 'metadata': up to 16 pairs of texts, keys of 64 and values of 512 characters.",
            param="metadata",
        )
    return dict(value)


def line_of(
    request_id: str, custom_id: str, status: int, body: Any, *, failure: LineError | None = None
) -> bytes:
    """Give one line of an output or error file."""
    response = None
    if failure is None:
        response = {"status_code": status, "request_id": request_id, "body": body}
    error = None if failure is None else {"code": failure.code, "message": failure.message}
    line = {
        "id": f"batch_{request_id}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(line) + b"\n"


def shown(job: Job) -> dict[str, Any]:
    """Give a batch as callers see it."""
    payload, notes, result = job.payload, job.extra, job.result
    state = _state(job)
    ended = _whole(job.ended_at)

    def when(*states: str) -> int | None:
        return ended if state in states else None

    errors = result.get("errors")
    usage = None
    if notes.get("prompt_tokens") is not None:
        prompt, completion = int(notes["prompt_tokens"]), int(notes.get("completion_tokens", 0))
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": payload["endpoint"],
        "model": notes.get("model"),
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": payload["input_file_id"],
        "completion_window": payload["completion_window"],
        "status": state,
        "output_file_id": result.get("output_file_id"),
        "error_file_id": result.get("error_file_id"),
        "created_at": int(job.created_at),
        "in_progress_at": _instant(notes, "in_progress_at"),
        "expires_at": int(job.deadline),
        "finalizing_at": _instant(notes, "finalizing_at"),
        "completed_at": when("completed"),
        "failed_at": when("failed"),
        "expired_at": when("expired"),
        "cancelling_at": _instant(notes, "cancelling_at"),
        "cancelled_at": when("cancelled"),
        "request_counts": {
            "total": int(notes.get("rows_total", 0)),
            "completed": int(notes.get("rows_done", 0)),
            "failed": int(notes.get("rows_failed", 0)),
        },
        "usage": usage,
        "metadata": payload.get("metadata"),
    }


def _state(job: Job) -> str:
    if job.status is JobStatus.COMPLETED:
        return str(job.result.get("state", "completed"))
    if job.status is JobStatus.FAILED:
        cancelled = job.error is not None and job.error.code == "cancelled"
        return "cancelled" if cancelled else "failed"
    if "cancelling_at" in job.extra:
        return "cancelling"
    if "finalizing_at" in job.extra:
        return "finalizing"
    return "in_progress" if "in_progress_at" in job.extra else "validating"


def _instant(notes: Mapping[str, str], name: str) -> int | None:
    return int(float(notes[name])) if name in notes else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
