"""Is SGLang's contract read as SGLang 0.5.23 writes it?"""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.engine_errors import scrub
from backends.sglang import (
    PRIVATE_FIELDS,
    PRIVATE_HEADERS,
    EngineError,
    ErrorKind,
    UnknownModel,
    abort_body,
    error_of,
    known_models,
    launch_command,
    parse_loads,
)

# As SGLang 0.5.23 wrote it at 2026-11-23T14:50:39.686Z.
RANK: dict[str, Any] = {
    "timestamp": 1795445439.6688926,
    "dp_rank": 0,
    "num_running_reqs": 3,
    "num_waiting_reqs": 2,
    "num_waiting_uncached_tokens": 700,
    "num_used_tokens": 1000,
    "num_total_tokens": 1700,
    "num_active_tokens": 0,
    "num_prealloc_ready_tokens": 0,
    "max_total_num_tokens": 16384,
    "max_running_requests": 16,
    "token_usage": 0.0,
    "gen_throughput": 1.09,
    "cache_hit_rate": 0.5,
    "utilization": 0.0,
    "total_prefill_uncached_tokens": 47,
    "total_prefill_busy_us": 175726,
    "decode_moments": [61.0, 63.0],
}


def report(*ranks: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "timestamp": "2026-11-23T14:50:39.686081+00:00",
            "version": "0.5.23",
            "accelerator": None,
            "num_accelerators": 1,
            "loads": ranks,
        }
    )


def test_a_load_report_is_read() -> None:
    load = parse_loads(report(RANK), now=5.0)
    assert load is not None
    assert (load.at, load.seen_at) == (1795445439.6688926, 5.0)
    assert (load.running, load.waiting, load.waiting_uncached_tokens) == (3, 2, 700)
    assert (load.used_tokens, load.total_tokens, load.max_total_tokens) == (1000, 1700, 16384)
    assert (load.max_running, load.prefill_uncached_tokens) == (16, 47)
    assert (load.prefill_busy_us, load.gen_throughput_per_s) == (175726, 1.09)
    assert load.cache_hit_rate == 0.5


def test_ranks_are_summed_and_hit_rates_weighted_by_tokens() -> None:
    other = {**RANK, "dp_rank": 1, "num_used_tokens": 3000, "cache_hit_rate": 0.1}
    load = parse_loads(report(RANK, other), now=5.0)
    assert load is not None
    assert (load.running, load.max_running, load.used_tokens) == (6, 32, 4000)
    assert load.cache_hit_rate == pytest.approx(0.2)


def test_a_working_rank_with_an_old_snapshot_makes_the_load_unknown() -> None:
    old = {**RANK, "timestamp": RANK["timestamp"] - 31}
    assert parse_loads(report(RANK, old), now=5.0) is None


def test_an_idle_rank_may_have_an_old_snapshot() -> None:
    idle = {
        **RANK,
        "timestamp": RANK["timestamp"] - 3600,
        "num_running_reqs": 0,
        "num_waiting_reqs": 0,
    }
    assert parse_loads(report(idle), now=5.0) is not None


def test_what_may_be_missing_is_zero() -> None:
    few = {k: RANK[k] for k in ("timestamp", "num_running_reqs", "num_waiting_reqs")}
    load = parse_loads(report(few), now=5.0)
    assert load is not None
    assert (load.running, load.max_total_tokens) == (3, 0)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"detail":"Not Found"}', report(), report({})]
)
def test_what_is_no_report_is_unknown(body: bytes) -> None:
    assert parse_loads(body, now=5.0) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(body: bytes) -> None:
    assert parse_loads(body, now=0.0) is None
    assert isinstance(error_of(500, body), EngineError)


LEAK = r"\n\n  File \"/opt/venv/lib/sglang/srt/http_server.py\", line 1870, in f\n"
FLAT = '{"object":"error","message":"%s","type":"Bad Request","param":null,"code":%d}'
MISSING = "{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {}}"
DEEP = (
    "{'type': 'string_type', 'loc': ('body', 'messages', 0, 'ChatCompletionMessageUserParam',"
    " 'content'), 'msg': 'Input should be a valid string', 'input': 5}"
)
OBJECT = (
    "{'type': 'value_error', 'loc': ('body', 'n'), 'msg': 'Value error, n must be positive',"
    " 'ctx': {'error': ValueError('no')}}"
)
JSON_INVALID = "{'type': 'json_invalid', 'loc': ('body', 37), 'msg': 'JSON decode error'}"


def dumped(complaint: str) -> str:
    return FLAT % (f"1 validation error:\\n  {complaint}{LEAK}", 400)


@pytest.mark.parametrize(
    ("status", "body", "kind", "param", "message"),
    [
        (
            400,
            dumped(MISSING),
            ErrorKind.INVALID_REQUEST,
            "messages",
            "Missing required parameter: 'messages'.",
        ),
        (
            400,
            dumped(DEEP),
            ErrorKind.INVALID_REQUEST,
            "messages[0].content",
            "Invalid value for 'messages[0].content': Input should be a valid string.",
        ),
        (
            400,
            dumped(OBJECT),
            ErrorKind.INVALID_REQUEST,
            "n",
            "Invalid value for 'n': n must be positive.",
        ),
        (
            400,
            dumped(JSON_INVALID),
            ErrorKind.INVALID_REQUEST,
            None,
            "The request body is not valid JSON.",
        ),
        (
            400,
            FLAT % ("Messages cannot be empty.", 400),
            ErrorKind.INVALID_REQUEST,
            None,
            "Messages cannot be empty.",
        ),
        (
            400,
            FLAT
            % (
                "The input (10013 tokens) is longer than the model's context length (2048 tokens).",
                400,
            ),
            ErrorKind.CONTEXT_LENGTH,
            None,
            "The input (10013 tokens) is longer than the model's context length (2048 tokens).",
        ),
        (
            400,
            FLAT
            % (
                "max_completion_tokens is too large: 50000.This model supports at most 2048"
                " completion tokens.",
                400,
            ),
            ErrorKind.CONTEXT_LENGTH,
            None,
            "max_completion_tokens is too large: 50000.This model supports at most 2048"
            " completion tokens.",
        ),
        (
            400,
            FLAT % ("max_new_tokens must be at least 0, got -5.", 400),
            ErrorKind.INVALID_REQUEST,
            "max_tokens",
            "max_tokens must be at least 0, got -5.",
        ),
        (
            400,
            FLAT % ("Duplicate request ID: 12", 400),
            ErrorKind.DUPLICATE_RID,
            None,
            "Duplicate request ID: 12",
        ),
        (
            503,
            FLAT % ("The request queue is full.", 503),
            ErrorKind.QUEUE_FULL,
            None,
            "The request queue is full.",
        ),
        (
            200,
            '{"error": %s}' % (FLAT % ("The request queue is full.", 503)),
            ErrorKind.QUEUE_FULL,
            None,
            "The request queue is full.",
        ),
        (503, "", ErrorKind.UNAVAILABLE, None, "The model is not available."),
        (401, '{"error":"Unauthorized"}', ErrorKind.UNAUTHORIZED, None, "Unauthorized"),
        (403, '{"error":"Forbidden"}', ErrorKind.FORBIDDEN, None, "Forbidden"),
        (404, '{"detail":"Not Found"}', ErrorKind.NOT_FOUND, None, "Not Found"),
        (
            405,
            '{"detail":"Method Not Allowed"}',
            ErrorKind.METHOD_NOT_ALLOWED,
            None,
            "Method Not Allowed",
        ),
        (
            422,
            '{"detail":[{"type":"missing","loc":["body","prompt"],"msg":"Field required"}]}',
            ErrorKind.INVALID_REQUEST,
            "prompt",
            "Missing required parameter: 'prompt'.",
        ),
        (
            404,
            '{"error":{"message":"The model `x` does not exist","type":"x","param":"model",'
            '"code":"model_not_found"}}',
            ErrorKind.NOT_FOUND,
            "model",
            "The model `x` does not exist",
        ),
        (
            400,
            '{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: no"}}',
            ErrorKind.INVALID_REQUEST,
            None,
            "max_tokens: no",
        ),
        (500, "Internal Server Error", ErrorKind.INTERNAL, None, "The model failed to answer."),
        (
            500,
            FLAT % ("KeyError at /opt/x/y.py", 500),
            ErrorKind.INTERNAL,
            None,
            "The model failed to answer.",
        ),
        (
            502,
            "<html><h1>Bad gateway</h1></html>",
            ErrorKind.INTERNAL,
            None,
            "The model failed to answer.",
        ),
        (400, "plain words", ErrorKind.INVALID_REQUEST, None, "plain words"),
        (400, "[]", ErrorKind.INVALID_REQUEST, None, "The request is not valid."),
    ],
)
def test_error_bodies_of_every_shape_are_read(
    status: int, body: str, kind: ErrorKind, param: str | None, message: str
) -> None:
    found = error_of(status, body.encode())
    assert (found.kind, found.param, found.message) == (kind, param, message)


def test_a_frame_tells_its_own_status() -> None:
    assert error_of(200, b'{"error":{"message":"full","code":503}}').status == 503
    assert error_of(400, b'{"error":{"message":"no","code":"bad_thing"}}').status == 400


@pytest.mark.parametrize(
    ("leaky", "clean"),
    [
        ("no file /opt/models/llama/config.json here", "no file [path] here"),
        ("bad\nTraceback (most recent call last):\n  secret", "bad"),
        ('bad\n  File "/a/b.py", line 3, in f\n    secret()', "bad"),
        ("cannot reach http://10.0.0.3:30000/v1", "cannot reach [address]"),
        ("POST /v1/chat/completions: application/json and/or text/plain", None),
        ("amd/Llama-2-70b-chat-hf is 1/2", None),
        ("~/.cache/huggingface/hub/x and ../secret/file", "[path] and [path]"),
        (r"C:\models\x", "[path]"),
    ],
)
def test_paths_traces_and_addresses_are_cut(leaky: str, clean: str | None) -> None:
    assert scrub(leaky) == (leaky if clean is None else clean)


def test_messages_are_bounded() -> None:
    assert len(scrub("word " * 1000)) == 500


def test_an_abort_names_one_request() -> None:
    assert orjson.loads(abort_body("ab" * 16)) == {"rid": "ab" * 16, "abort_all": False}


def test_private_names_are_as_they_are_compared() -> None:
    assert {"rid", "priority", "cache_salt", "bootstrap_room", "input_ids"} <= PRIVATE_FIELDS
    assert all(name == name.lower() for name in PRIVATE_HEADERS)


def test_launch_lines_for_mi355x() -> None:
    assert known_models() == ("llama2-70b", "gpt-oss-120b")
    llama = launch_command("llama2-70b", port=30000, gpu=3, stream_interval=16)
    words = " ".join(llama.argv)
    assert "--model-path amd/Llama-2-70b-chat-hf-WMXFP4-AMXFP4-KVFP8" in words
    assert "--served-model-name llama2-70b --host 127.0.0.1 --port 30000 --tp 1" in words
    assert "--stream-interval 16 --enable-metrics" in words
    assert llama.env["SGLANG_USE_AITER"] == "1"
    assert llama.env["HIP_VISIBLE_DEVICES"] == "3"
    oss = " ".join(launch_command("gpt-oss-120b", port=1, checkpoint="/models/oss").argv)
    assert "--model-path /models/oss --served-model-name gpt-oss-120b" in oss
    assert "--attention-backend triton --chunked-prefill-size 130172" in oss
    assert "--reasoning-parser gpt-oss --tool-call-parser gpt-oss" in oss


def test_an_engine_sends_spans_of_what_a_gateway_traces_and_of_nothing_else() -> None:
    traced = launch_command("gpt-oss-120b", port=1, otlp="collector:4317")
    assert traced.argv[-3:] == ("--enable-trace", "--otlp-traces-endpoint", "collector:4317")
    assert traced.env["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert "--enable-trace" not in launch_command("gpt-oss-120b", port=1).argv


def test_an_unknown_model_is_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownModel, match="llama2-70b, gpt-oss-120b"):
        launch_command("llama3", port=1)
