"""With which command and environment does a real SGLang serve a small model on a CPU?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Serving:
    """How one embedded engine serves; the defaults suit two cores.

    `context_tokens` bounds prompt and answer together, `max_running` the calls that run at once and
    `kv_tokens` what they may hold in the cache. `threads` is what one step computes with: one, so
    that a core is left for the gateway. On two shared cores of an AVX512-BF16 Xeon, SmolLM2 gave 12
    tokens a second to one stream and 48 to eight, in 3.4 GB (two threads: 18 and 67). bfloat16 is
    little faster (13 and 59, 2.8 GB) and spoils forced tool calls.

    The parser turns calls in Hermes's format into `tool_calls` and leaves other text alone. The
    grammar of `tool_choice: required` writes that format even where the model does not know it.
    """

    dtype: str = "float32"
    context_tokens: int = 2048
    max_running: int = 16
    kv_tokens: int = 16384
    threads: int = 1
    tool_call_parser: str | None = "hermes"


def command(
    python: Path,
    model_dir: Path,
    *,
    served_model_name: str,
    host: str = "127.0.0.1",
    port: int,
    serving: Serving = Serving(),
) -> list[str]:
    """Give the argv that starts the engine; it serves when `GET /ready` answers 200.

    `python` is the engine environment's own (`environment.ensure_engine`). To be started with
    `environ`, in a session of its own. SIGTERM lets calls finish and takes about 10 s, SIGINT ends
    it at once; its child processes end with it, even when it is killed.
    """
    argv = [str(python), "-W", "ignore", "-m", "sglang.launch_server"]
    argv += ["--model-path", str(model_dir), "--served-model-name", served_model_name]
    argv += ["--host", host, "--port", str(port)]
    argv += ["--device", "cpu", "--dtype", serving.dtype]
    # Without a GPU's kernels: attention and sampling in torch, no graphs, no second stream.
    argv += ["--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    argv += ["--disable-cuda-graph", "--disable-overlap-schedule"]
    argv += ["--context-length", str(serving.context_tokens)]
    argv += ["--max-running-requests", str(serving.max_running)]
    argv += ["--max-total-tokens", str(serving.kv_tokens), "--mem-fraction-static", "0.3"]
    argv += ["--enable-metrics", "--enable-cache-report"]
    # The scheduler polls without a pause otherwise, and an idle engine takes a whole core.
    argv += ["--sleep-on-idle"]
    if serving.tool_call_parser is not None:
        argv += ["--tool-call-parser", serving.tool_call_parser]
    return argv


def environ(base: Mapping[str, str], serving: Serving = Serving()) -> dict[str, str]:
    """Give the engine's environment on top of `base`: our platform, no hub, few threads."""
    return {
        **base,
        "SGLANG_PLATFORM": "plain_cpu",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(serving.threads),
    }
