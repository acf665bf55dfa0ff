"""What is SGLang's contract? Paths, load reports, private fields and the launch lines for MI355X.

All of it is as SGLang 0.5.23 has it (srt/entrypoints/http_server.py,
srt/entrypoints/openai/protocol.py, srt/managers/load_snapshot.py); what its errors say is read in
`backends.engine_errors`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import orjson

from backends.engine_errors import EngineError, ErrorKind, error_of
from backends.fleet import DecodeMoments, Load

__all__ = [
    "ABORT_PATH",
    "HEALTH_PATH",
    "KEEP_ALIVE_S",
    "LOADS_PATH",
    "PRIVATE_FIELDS",
    "PRIVATE_HEADERS",
    "PRIVATE_HEADER_PREFIXES",
    "READY_PATH",
    "EngineError",
    "ErrorKind",
    "LaunchLine",
    "UnknownModel",
    "abort_body",
    "error_of",
    "known_models",
    "launch_command",
    "parse_loads",
]

READY_PATH = "/ready"
HEALTH_PATH = "/health"
LOADS_PATH = "/v1/loads?include=core"
ABORT_PATH = "/abort_request"
KEEP_ALIVE_S = 5.0  # the server closes an idle connection after this (SGLANG_TIMEOUT_KEEP_ALIVE)

# Schedule, isolate or steer inside the engine: the gateway's to set, never a caller's.
PRIVATE_FIELDS = frozenset(
    {
        "rid",
        "priority",
        "extra_key",
        "cache_salt",
        "session_id",
        "session_params",
        "lora_path",
        "routed_dp_rank",
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "custom_logit_processor",
        "return_hidden_states",
        "input_ids",
    }
)
PRIVATE_HEADERS = frozenset({"x-data-parallel-rank", "x-smg-routing-key", "x-custom-labels"})
PRIVATE_HEADER_PREFIXES = ("x-override-", "x-sglext-")

# A scheduler with work writes its snapshot at every prefill, every 15 decode steps, and while it
# stalls.
_STALE_AFTER_S = 30.0


def abort_body(rid: str) -> bytes:
    """Write the body that ends a request. The engine matches prefixes: rids must be of one
    length."""
    return orjson.dumps({"rid": rid, "abort_all": False})


def parse_loads(body: bytes, now: float) -> Load | None:
    """Read `GET /v1/loads`, summed over DP ranks; `now` is our instant in Unix seconds.

    None where the load is unknown: the body is not such a report, it names no rank, or a rank that
    claims work has not written its snapshot for 30 s before the report (both instants by the
    replica's clock, so that skew does not matter). An idle rank's snapshot may be old: only work
    makes a new one.
    """
    try:
        report = orjson.loads(body)
        at = datetime.fromisoformat(report["timestamp"]).timestamp()
        ranks = [_rank(each) for each in report["loads"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if not ranks or any(r.has_work and at - r.at > _STALE_AFTER_S for r in ranks):
        return None
    # A rate of hits is meaningful per token served; unweighted where nothing was served.
    weights = [r.used_tokens or 1 for r in ranks]
    hits = sum(r.cache_hit_rate * w for r, w in zip(ranks, weights, strict=True))
    return Load(
        at=max(r.at for r in ranks),
        seen_at=now,
        running=sum(r.running for r in ranks),
        waiting=sum(r.waiting for r in ranks),
        waiting_uncached_tokens=sum(r.waiting_uncached_tokens for r in ranks),
        used_tokens=sum(r.used_tokens for r in ranks),
        total_tokens=sum(r.total_tokens for r in ranks),
        max_total_tokens=sum(r.max_total_tokens for r in ranks),
        max_running=sum(r.max_running for r in ranks),
        prefill_uncached_tokens=sum(r.prefill_uncached_tokens for r in ranks),
        prefill_busy_us=sum(r.prefill_busy_us for r in ranks),
        gen_throughput_per_s=sum(r.gen_throughput_per_s for r in ranks),
        cache_hit_rate=hits / sum(weights),
        decode=_summed([r.decode for r in ranks]),
    )


@dataclass(frozen=True, slots=True)
class _Rank:
    at: float
    running: int
    waiting: int
    waiting_uncached_tokens: int
    used_tokens: int
    total_tokens: int
    max_total_tokens: int
    max_running: int
    prefill_uncached_tokens: int
    prefill_busy_us: int
    gen_throughput_per_s: float
    cache_hit_rate: float
    decode: DecodeMoments | None

    @property
    def has_work(self) -> bool:
        return self.running > 0 or self.waiting > 0


def _rank(given: Mapping[str, Any]) -> _Rank:
    """Read one rank; the two counts and the instant must be there, the rest may be missing."""
    return _Rank(
        at=float(given["timestamp"]),
        running=int(given["num_running_reqs"]),
        waiting=int(given["num_waiting_reqs"]),
        waiting_uncached_tokens=int(given.get("num_waiting_uncached_tokens") or 0),
        used_tokens=int(given.get("num_used_tokens") or 0),
        total_tokens=int(given.get("num_total_tokens") or 0),
        max_total_tokens=int(given.get("max_total_num_tokens") or 0),
        max_running=int(given.get("max_running_requests") or 0),
        prefill_uncached_tokens=int(given.get("total_prefill_uncached_tokens") or 0),
        prefill_busy_us=int(given.get("total_prefill_busy_us") or 0),
        gen_throughput_per_s=float(given.get("gen_throughput") or 0.0),
        cache_hit_rate=float(given.get("cache_hit_rate") or 0.0),
        decode=_moments(given.get("decode_moments")),
    )


def _moments(given: Any) -> DecodeMoments | None:
    """Read `decode_moments`: steps, then sums of b, t in us, b*b and b*t, then tokens."""
    if not isinstance(given, list) or len(given) < 6:
        return None
    return DecodeMoments(*map(float, given[:6]))


def _summed(moments: list[DecodeMoments | None]) -> DecodeMoments | None:
    """Add up the ranks' moments; unknown where one rank's are."""
    known = [m for m in moments if m is not None]
    if len(known) < len(moments):
        return None
    return DecodeMoments(
        *(sum(getattr(m, f) for m in known) for f in DecodeMoments.__dataclass_fields__)
    )


class UnknownModel(ValueError):
    """No launch line is known for the model; the message lists those that are."""


@dataclass(frozen=True, slots=True)
class LaunchLine:
    """The command and the environment (on top of the machine's) that serve a model."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Recipe:
    checkpoint: str
    context_tokens: int
    max_running: int
    flags: tuple[str, ...]


# Neither line was run on the hardware by us: gate each on an accuracy check before it turns ready.
_RECIPES: Mapping[str, _Recipe] = MappingProxyType(
    {
        # AMD's own MXFP4 checkpoint, about 40 GB: one GPU holds it. Quantisation (Quark) is found
        # in the checkpoint.
        "llama2-70b": _Recipe(
            checkpoint="amd/Llama-2-70b-chat-hf-WMXFP4-AMXFP4-KVFP8-Scale-UINT8-6.0MLPerf-GPTQ",
            context_tokens=4096,
            max_running=2048,
            flags=("--kv-cache-dtype", "fp8_e4m3", "--mem-fraction-static", "0.9"),
        ),
        # SGLang's nightly MI35x test, with tp 1: the model fits one GPU, so a node is 8 replicas.
        "gpt-oss-120b": _Recipe(
            checkpoint="openai/gpt-oss-120b",
            context_tokens=131_072,
            max_running=128,
            flags=(
                *("--attention-backend", "triton", "--chunked-prefill-size", "130172"),
                *("--mem-fraction-static", "0.85"),
                *("--reasoning-parser", "gpt-oss", "--tool-call-parser", "gpt-oss"),
            ),
        ),
    }
)


def known_models() -> tuple[str, ...]:
    """Name the models that have a launch line."""
    return tuple(_RECIPES)


def launch_command(
    model: str,
    *,
    port: int,
    host: str = "127.0.0.1",
    gpu: int | None = None,
    tp: int = 1,
    stream_interval: int = 16,
    max_running: int | None = None,
    checkpoint: str | None = None,
    otlp: str | None = None,
    python: str = "python3",
) -> LaunchLine:
    """Give the line that serves a model on MI355X; raises UnknownModel.

    `gpu` is the device of a one-GPU replica. `stream_interval` is tokens per chunk: the gateway's
    and the engine's cost per token falls with it. `checkpoint` may be a local directory. `otlp` is
    HOST:PORT of a collector (gRPC) that gets a span per call that a gateway traces; the engine ends
    at once where its image has no OpenTelemetry SDK (0.5.23, srt/observability/trace.py). No API
    key is set: engines stand on a private network, and the gateway asks for keys.
    """
    recipe = _RECIPES.get(model)
    if recipe is None:
        raise UnknownModel(f"No launch line for {model!r}; known: {', '.join(_RECIPES)}.")
    argv = (
        *(python, "-m", "sglang.launch_server"),
        *("--model-path", checkpoint or recipe.checkpoint, "--served-model-name", model),
        *("--host", host, "--port", str(port), "--tp", str(tp)),
        *("--context-length", str(recipe.context_tokens)),
        *("--max-running-requests", str(max_running or recipe.max_running)),
        *("--stream-interval", str(stream_interval)),
        *("--enable-metrics", "--enable-cache-report"),
        *recipe.flags,
        *(() if otlp is None else ("--enable-trace", "--otlp-traces-endpoint", otlp)),
    )
    # MXFP4 needs AITER on CDNA4. A long keep-alive spares the pool sockets that close under it.
    env = {"SGLANG_USE_AITER": "1", "SGLANG_TIMEOUT_KEEP_ALIVE": "75"}
    if gpu is not None:
        env["HIP_VISIBLE_DEVICES"] = str(gpu)
    if otlp is not None:
        # The SDK's default would begin a trace for every call that came without one.
        env["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
    return LaunchLine(argv, MappingProxyType(env))
