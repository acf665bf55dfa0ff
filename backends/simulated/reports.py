"""What does a replica say of itself: its load, its metrics, its arguments?"""

from datetime import UTC, datetime
from typing import Any

from backends.simulated.core import EngineCore
from backends.simulated.settings import SimulatedSettings, as_dict

VERSION = "0.5.23"  # the SGLang whose surface this is


def loads(core: EngineCore, now: float, sections: frozenset[str]) -> dict[str, Any]:
    """Answer /v1/loads at the Unix instant `now`; `sections` as its `include` names them."""
    report: dict[str, Any] = core_load(core, now)
    everything = not sections or "all" in sections
    if everything or "memory" in sections:
        report["memory"] = {
            "weight_gb": 0.0,
            "kv_cache_gb": 0.0,
            "graph_gb": 0.0,
            "token_capacity": core.limits.kv_tokens,
        }
    if everything or "disagg" in sections:
        report["disaggregation"] = {
            "mode": "null",
            "prefill_bootstrap_queue_reqs": 0,
            "prefill_inflight_queue_reqs": 0,
            "decode_prealloc_queue_reqs": 0,
            "decode_transfer_queue_reqs": 0,
            "decode_retracted_queue_reqs": 0,
            "kv_transfer_speed_gb_s": 0.0,
            "kv_transfer_latency_ms": 0.0,
        }
    if everything or "queues" in sections:
        report["queues"] = {
            "waiting": core.waiting,
            "grammar": 0,
            "paused": 0,
            "retracted": 0,
            "prealloc_ready": 0,
        }
    return {
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
        "version": VERSION,
        "accelerator": None,
        "num_accelerators": 1,
        "loads": [report],
    }


def core_load(core: EngineCore, now: float) -> dict[str, Any]:
    """Give the core section: what is true at this instant, and what was done since the start."""
    counters = core.counters
    used = core.resident_tokens
    prompt = counters.prefill_uncached_tokens + counters.prefill_cached_tokens
    step_s = core.law.step_s(core.decoding, 0, used)
    moments = [
        float(counters.decode_steps),
        counters.decode_b,
        round(counters.decode_t, 1),
        counters.decode_bb,
        round(counters.decode_bt, 1),
        float(counters.generated_tokens),
    ]
    return {
        "timestamp": now,
        "dp_rank": 0,
        "num_running_reqs": core.running,
        "num_waiting_reqs": core.waiting,
        "num_waiting_uncached_tokens": core.waiting_tokens,
        "num_used_tokens": used,
        "num_total_tokens": used + core.waiting_tokens,
        "num_active_tokens": used,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": core.limits.kv_tokens,
        "max_running_requests": core.limits.max_running,
        "token_usage": round(used / core.limits.kv_tokens, 4),
        "gen_throughput": round(core.decoding / step_s, 2),
        "cache_hit_rate": round(counters.prefill_cached_tokens / prompt, 4) if prompt else 0.0,
        "utilization": round(core.running / core.limits.max_running, 4),
        "total_prefill_uncached_tokens": counters.prefill_uncached_tokens,
        "total_prefill_busy_us": round(counters.prefill_busy_s * 1e6),
        "decode_moments": moments if counters.decode_steps else None,
    }


def metrics(core: EngineCore, model: str, now: float) -> str:
    """Answer /metrics in Prometheus' text form: the gauges and counters that monitors of SGLang
    read.
    """
    load = core_load(core, now)
    counters = core.counters
    gauges = {
        "num_running_reqs": load["num_running_reqs"],
        "num_queue_reqs": load["num_waiting_reqs"],
        "num_used_tokens": load["num_used_tokens"],
        "max_total_num_tokens": load["max_total_num_tokens"],
        "token_usage": load["token_usage"],
        "gen_throughput": load["gen_throughput"],
        "cache_hit_rate": load["cache_hit_rate"],
        "utilization": load["utilization"],
    }
    totals = {
        "prompt_tokens_total": counters.prefill_uncached_tokens + counters.prefill_cached_tokens,
        "cached_tokens_total": counters.prefill_cached_tokens,
        "generation_tokens_total": counters.generated_tokens,
        "num_requests_total": counters.ended,
        "num_aborted_requests_total": counters.aborted,
    }
    label = model.replace("\\", "\\\\").replace('"', '\\"')
    labels = f'{{engine_type="unified",model_name="{label}",tp_rank="0"}}'
    lines: list[str] = []
    for kind, values in (("gauge", gauges), ("counter", totals)):
        for name, value in values.items():
            lines += (f"# TYPE sglang:{name} {kind}", f"sglang:{name}{labels} {float(value)}")
    return "\n".join(lines) + "\n"


def model_card(settings: SimulatedSettings, created: int) -> dict[str, Any]:
    """Give the card of /v1/models."""
    return {
        "id": settings.model,
        "object": "model",
        "created": created,
        "owned_by": "sglang",
        "root": settings.model,
        "parent": None,
        "max_model_len": settings.context,
    }


def model_info(settings: SimulatedSettings) -> dict[str, Any]:
    """Answer /model_info."""
    return {
        "model_path": settings.model,
        "served_model_name": settings.model,
        "tokenizer_path": settings.model,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "load_format": "auto",
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": "null",
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": "simulated",
        "architectures": ["SimulatedForCausalLM"],
    }


def server_info(settings: SimulatedSettings, core: EngineCore) -> dict[str, Any]:
    """Answer /server_info: the arguments under SGLang's names, and ours under `simulated`."""
    limits = core.limits
    law = core.law
    known = settings.profile
    return {
        "model_path": settings.model,
        "served_model_name": settings.model,
        "tokenizer_path": settings.model,
        "context_length": settings.context,
        "max_running_requests": limits.max_running,
        "max_queued_requests": limits.max_queued,
        "max_total_tokens": limits.kv_tokens,
        "chunked_prefill_size": limits.chunk_tokens,
        "schedule_policy": "fcfs",
        "stream_interval": settings.stream_interval,
        "enable_cache_report": settings.cache_report,
        "tp_size": 1,
        "dp_size": 1,
        "max_total_num_tokens": limits.kv_tokens,
        "internal_states": [{"effective_max_running_requests_per_dp": limits.max_running}],
        "version": VERSION,
        "frontend": "python",
        "simulated": {
            **as_dict(settings),
            "law": {"c0_s": law.c0_s, "c_tok_s": law.c_tok_s, "c_kv_s": law.c_kv_s},
            "provenance": dict(known.provenance),
        },
    }
