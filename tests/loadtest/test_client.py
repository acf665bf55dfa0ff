"""Are queries carried out, and their ends told apart, over real connections?"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest
from gevent.event import AsyncResult

from loadtest.client import Client
from loadtest.dataset import Sample
from loadtest.exchange import Streaming, VideoJob, fetch
from loadtest.payload import Requests
from loadtest.records import NEVER, Outcome, Query
from loadtest.scenario import Scenario, load
from loadtest.target import Target


def carry_out(
    client: Client, scenario: Scenario, sample: Sample, *, timeout_s: float = 5
) -> tuple[Query, str]:
    """Carry out one query and wait for its end."""
    requests = Requests(client.target, scenario, model="own")
    exchange = Streaming(client, requests, timeout_s=timeout_s)
    ended: AsyncResult = AsyncResult()
    query = Query(0, 0, 0)
    exchange.begin(query, sample, time.monotonic_ns(), lambda q, why: ended.set((q, why)))
    while not ended.ready():
        gevent.sleep(0.005)
        client.sweep(time.monotonic_ns())
    answer: tuple[Query, str] = ended.get()
    return answer


@pytest.fixture
def chat(scenario: Callable[..., Path]) -> Scenario:
    return load(str(scenario()), "own")


FAULTS = [
    ("", Outcome.OK),
    ("429", Outcome.REFUSED),
    ("503", Outcome.REFUSED),
    ("500", Outcome.FAILED),
    ("error", Outcome.FAILED),
    ("cut", Outcome.SHORT),
    ("abort", Outcome.SHORT),
    ("close", Outcome.BROKEN),
    ("miscount", Outcome.ALTERED),
    ("undone", Outcome.OK),
]


@pytest.mark.parametrize(("fault", "outcome"), FAULTS)
def test_every_end_of_a_stream_has_its_name(
    fast: str, chat: Scenario, fault: str, outcome: Outcome
) -> None:
    client = Client(Target(fast))
    sample = Sample(f"please fault:{fault} now", max_tokens=8, exact_tokens=8)
    query, error = carry_out(client, chat, sample)
    assert query.outcome is outcome, error
    if outcome is Outcome.OK:
        assert (query.tokens, query.chunks, query.prompt_tokens) == (8, 8, 7)
        assert 0 < query.first_ns <= query.done_ns  # one read may bring all of it
        assert not error
    client.close()


def test_wrong_token_counts_are_altered_streams(fast: str, chat: Scenario) -> None:
    client = Client(Target(fast))
    query, _ = carry_out(client, chat, Sample("hello", max_tokens=8, exact_tokens=9))
    assert query.outcome is Outcome.ALTERED
    client.close()


def test_completions_are_read_too(fast: str, scenario: Callable[..., Path]) -> None:
    client = Client(Target(fast))
    made = load(str(scenario(api="completions")), "own")
    query, _ = carry_out(client, made, Sample("hello", max_tokens=3, exact_tokens=3))
    assert (query.outcome, query.chunks) == (Outcome.OK, 3)
    client.close()


def test_connections_are_reused_and_one_that_went_stale_is_replaced(
    fast: str, chat: Scenario
) -> None:
    client = Client(Target(fast))
    for _ in range(3):
        assert carry_out(client, chat, Sample("a", max_tokens=2))[0].outcome is Outcome.OK
    assert client.connects == 1
    # The endpoint closes after this one; the client must notice before or while it is reused.
    assert carry_out(client, chat, Sample("fault:cut", max_tokens=4))[0].outcome is Outcome.SHORT
    assert carry_out(client, chat, Sample("a", max_tokens=2))[0].outcome is Outcome.OK
    assert client.connects == 2
    client.close()


def test_a_connection_closed_between_queries_does_not_cost_a_query(chat: Scenario) -> None:
    """A server may close an idle connection just as it is reused: the query is sent once more."""
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b""]
    answers.append(answers[0])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            first, _ = server.accept()
            first.recv(65536)
            first.sendall(answers[0])
            first.recv(65536)
            first.close()  # without an answer
            second, _ = server.accept()
            second.recv(65536)
            second.sendall(answers[0])
            second.close()

        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(Target(f"http://127.0.0.1:{server.getsockname()[1]}"))
        request = client.target.request("GET", "/", b"", {})
        assert fetch(client, request, timeout_s=5) == (200, {}, "")
        assert fetch(client, request, timeout_s=5) == (200, {}, "")
        assert client.connects == 2
        thread.join()
        client.close()


def test_a_query_without_an_answer_times_out(chat: Scenario) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(Target(f"http://127.0.0.1:{silent.getsockname()[1]}/v1"))
        query, error = carry_out(client, chat, Sample("hello"), timeout_s=0.05)
        assert (query.outcome, error) == (Outcome.TIMED_OUT, "timed out")
        client.close()


def test_a_refused_connection_is_broken(chat: Scenario) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = Client(Target(f"http://127.0.0.1:{port}/v1"))
    query, error = carry_out(client, chat, Sample("hello"))
    assert query.outcome is Outcome.BROKEN
    assert "refused" in error


def test_closing_the_client_leaves_unfinished_queries(chat: Scenario) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(Target(f"http://127.0.0.1:{silent.getsockname()[1]}/v1"))
        seen: list[Query] = []
        exchange = Streaming(client, Requests(client.target, chat, model="own"), timeout_s=5)
        for position in range(3):
            query = Query(position, 0, 0)
            exchange.begin(query, Sample("x"), 0, lambda q, _: seen.append(q))
        while len(client) < 3:
            gevent.sleep(0.005)
        client.close()
        gevent.sleep(0)
        assert [query.outcome for query in seen] == [Outcome.UNFINISHED] * 3


def test_a_long_prompt_is_written_in_pieces(fast: str, chat: Scenario) -> None:
    client = Client(Target(fast))
    query, _ = carry_out(client, chat, Sample("long " * 40_000, max_tokens=2))
    assert query.outcome is Outcome.OK
    client.close()


def test_a_video_is_polled_until_it_is_completed(fast: str, scenario: Callable[..., Path]) -> None:
    client = Client(Target(fast))
    made = load(str(scenario(api="videos", ttft_ms=None)), "own")
    requests = Requests(client.target, made, model="own")
    exchange = VideoJob(client, requests, timeout_s=5, poll_s=0.01)
    ended: AsyncResult = AsyncResult()
    query = Query(0, 0, 0)
    exchange.begin(query, Sample("a cat"), time.monotonic_ns(), lambda q, why: ended.set(why))
    assert ended.get() == ""
    assert query.outcome is Outcome.OK
    assert query.done_ns > 50_000_000
    assert query.first_ns == NEVER
    client.close()


@pytest.mark.parametrize("url", ["ftp://x", "localhost:80", "http://"])
def test_a_target_is_an_http_url(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Target(url)
