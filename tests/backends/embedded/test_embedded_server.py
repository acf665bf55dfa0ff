"""Is the engine started on loopback, with the flags and the environment of a CPU?"""

from itertools import pairwise
from pathlib import Path
from typing import Any

from backends.embedded import server
from backends.embedded.server import Serving


def flags(**limits: Any) -> dict[str, str]:
    """Give the command's flags that have a value."""
    argv = server.command(
        Path("/engine/bin/python"),
        Path("/models/tiny"),
        served_model_name="tiny-llama",
        port=31000,
        serving=Serving(**limits),
    )
    return {
        flag: value
        for flag, value in pairwise(argv)
        if flag.startswith("--") and not value.startswith("--")
    }


def test_the_engine_listens_on_loopback_only() -> None:
    assert flags()["--host"] == "127.0.0.1"
    assert flags()["--port"] == "31000"


def test_the_command_runs_the_engines_own_python() -> None:
    argv = server.command(
        Path("/engine/bin/python"), Path("/models/tiny"), served_model_name="m", port=1
    )

    assert argv[0] == "/engine/bin/python"
    assert "sglang.launch_server" in argv
    assert {"--enable-metrics", "--enable-cache-report", "--sleep-on-idle"} <= set(argv)


def test_limits_reach_the_command() -> None:
    given = flags(context_tokens=512, max_running=3, kv_tokens=4096, dtype="bfloat16")

    assert given["--context-length"] == "512"
    assert given["--max-running-requests"] == "3"
    assert given["--max-total-tokens"] == "4096"
    assert given["--dtype"] == "bfloat16"


def test_tool_calls_are_parsed_unless_told_otherwise() -> None:
    assert flags()["--tool-call-parser"] == "hermes"
    assert "--tool-call-parser" not in flags(tool_call_parser=None)


def test_the_environment_keeps_the_base_and_names_the_platform() -> None:
    environ = server.environ({"PATH": "/bin", "OMP_NUM_THREADS": "64"}, Serving(threads=2))

    assert environ["PATH"] == "/bin"
    assert environ["SGLANG_PLATFORM"] == "plain_cpu"
    assert environ["HF_HUB_OFFLINE"] == "1"
    assert environ["OMP_NUM_THREADS"] == "2"
