"""How is one query carried out over HTTP, and what does its record say?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import orjson
from gevent.event import AsyncResult

from loadtest.client import Client
from loadtest.dataset import Sample
from loadtest.http1 import Response, Whole
from loadtest.payload import Requests
from loadtest.records import NEVER, Outcome, Query
from loadtest.sse import TokenStream, with_code

End = Callable[[Query, str], None]


class Exchange(Protocol):
    """A way to carry out queries: `end(query, error)` is called once, possibly from the hub."""

    def begin(self, query: Query, sample: Sample, started_ns: int, end: End) -> None: ...


class Streaming:
    """A streamed completion."""

    def __init__(self, client: Client, requests: Requests, *, timeout_s: float) -> None:
        self._client = client
        self._requests = requests
        self._timeout_s = timeout_s

    def begin(self, query: Query, sample: Sample, started_ns: int, end: End) -> None:
        """Send the query; fill in its record when the stream is over."""
        stream = TokenStream()

        def ended(response: Response, error: str) -> None:
            settle_stream(query, stream, sample, started_ns, error)
            end(query, error or stream.error)

        request = self._requests.generate(sample)
        self._client.start(request, stream, ended, timeout_s=self._timeout_s)


def settle_stream(
    query: Query, stream: TokenStream, sample: Sample, started_ns: int, error: str
) -> None:
    """Write what a stream came to into its record."""
    query.status = stream.status
    query.chunks = stream.chunks
    query.tokens = stream.tokens if stream.tokens >= 0 else stream.chunks
    query.prompt_tokens = max(0, stream.prompt_tokens)
    if stream.first_ns != NEVER:
        query.first_ns = stream.first_ns - started_ns
    if stream.done_ns != NEVER:
        query.done_ns = stream.done_ns - started_ns
    query.outcome = _outcome(stream, sample, error)


def _outcome(stream: TokenStream, sample: Sample, error: str) -> Outcome:
    early = _broken(stream.status, error)
    if early is not None:
        return early
    if stream.error:
        return Outcome.FAILED
    if not stream.finished or stream.finished in ("abort", "error"):
        return Outcome.SHORT
    if stream.first_ns == NEVER or stream.done_ns == NEVER:
        return Outcome.SHORT
    if 0 <= stream.tokens < stream.chunks:
        return Outcome.ALTERED
    if sample.exact_tokens is not None and stream.tokens not in (-1, sample.exact_tokens):
        return Outcome.ALTERED
    return Outcome.OK


def _broken(status: int, error: str) -> Outcome | None:
    """Say how an exchange failed below the stream, if it did."""
    if error == "interrupted":
        return Outcome.UNFINISHED
    if error == "timed out":
        return Outcome.TIMED_OUT
    if status in (429, 503):
        return Outcome.REFUSED
    if status and status not in (200, 201, 202):
        return Outcome.FAILED
    if error:
        return Outcome.SHORT if status else Outcome.BROKEN
    return None


class VideoJob:
    """A video: created, polled until it is completed, its first bytes not fetched.

    Its latency ends with the poll that says completed, so it is up to one polling interval too
    long.
    """

    def __init__(
        self, client: Client, requests: Requests, *, timeout_s: float, poll_s: float
    ) -> None:
        self._client = client
        self._requests = requests
        self._timeout_s = timeout_s
        self._poll_s = poll_s

    def begin(self, query: Query, sample: Sample, started_ns: int, end: End) -> None:
        """Run the job in a greenlet of its own."""
        gevent.spawn(self._run, query, sample, started_ns, end)

    def _run(self, query: Query, sample: Sample, started_ns: int, end: End) -> None:
        deadline = time.monotonic() + self._timeout_s
        status, page, error = self._call(self._requests.generate(sample), deadline)
        job = str(page.get("id", ""))
        while not error and status in (200, 201, 202):
            state = page.get("status")
            if state == "completed" or (state is None and "video_path" in page):
                query.done_ns = time.monotonic_ns() - started_ns
                break
            if state in ("failed", "cancelled"):
                error = str(message_of(page) or state)
                break
            if time.monotonic() > deadline:
                error = "timed out"
                break
            gevent.sleep(self._poll_s)
            poll = self._requests.get(f"{self._requests.path}/{job}")
            status, page, error = self._call(poll, deadline)
        query.status = status
        early = _broken(status, error)
        query.outcome = early or (Outcome.OK if query.done_ns != NEVER else Outcome.FAILED)
        if early is Outcome.SHORT:
            query.outcome = Outcome.FAILED
        end(query, error or ("" if query.outcome is Outcome.OK else f"HTTP {status}"))

    def _call(self, request: bytes, deadline: float) -> tuple[int, dict[str, Any], str]:
        return fetch(self._client, request, timeout_s=max(0.01, deadline - time.monotonic()))


def fetch(client: Client, request: bytes, *, timeout_s: float) -> tuple[int, dict[str, Any], str]:
    """Send a request and wait (in a greenlet) for its JSON: status, object, error."""
    answer = AsyncResult()
    client.start(request, Whole(), lambda got, why: answer.set((got, why)), timeout_s=timeout_s)
    got, why = answer.get()
    try:
        page = orjson.loads(got.body) if got.body else {}
    except orjson.JSONDecodeError:
        page = {}
    return got.status, page if isinstance(page, dict) else {}, why


def message_of(page: dict[str, Any]) -> str:
    """Give the message of an error object and its code; "" without one."""
    error = page.get("error")
    return with_code(error) if isinstance(error, dict) and error else ""
