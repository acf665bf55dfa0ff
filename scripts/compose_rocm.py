"""Write compose/rocm.yaml: one service per GPU replica, with the launch lines of `backends`.

The lines stand in one place (`backends.sglang`, `backends.diffusion`); the file is made from them
(`make deployment`), and a test fails when it is not. Its comments are part of this text.
"""

# ruff: noqa: E501 - the lines of the files that are written here, as they stand there

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from backends.diffusion import launch_command as diffusion_command
from backends.sglang import launch_command

PATH = Path(__file__).parent.parent / "compose" / "rocm.yaml"
GPUS = 8
VIDEO_MODEL = "wan-2.2-t2v-a14b"
VIDEO_PORT = 30020
FIRST_PORT = {"llama2-70b": 30000, "gpt-oss-120b": 30010}
# Compose has no "if": the line carries this word for --enable-trace, and a flag that stands there
# anyway where nobody asks for spans, since SGLang's ROCm images may lack what --enable-trace needs.
TRACE = "${ENGINE_TRACE:---enable-metrics}"
COLLECTOR = "${ENGINE_OTLP:-otel-collector:4317}"
# `rocm` is one node that serves both models; the others give the whole node to one.
MIXED = {"llama2-70b": range(4), "gpt-oss-120b": range(4, GPUS)}

HEAD = """\
# Made by scripts/compose_rocm.py from the launch lines in backends/; `make deployment` makes it again.
#
#   --profile rocm               a node of both: llama2-70b on GPUs 0-3, gpt-oss-120b on GPUs 4-7, one GPU per replica
#   --profile rocm-llama2-70b    eight replicas of llama2-70b
#   --profile rocm-gpt-oss-120b  eight replicas of gpt-oss-120b
#   --profile rocm-wan           one replica of Wan-2.2 over all eight GPUs
#
# ENGINE_TRACE=--enable-trace has the engines send spans to ENGINE_OTLP.
#
# None of it has run on an MI355X yet. docs/mi355x.md explains every line and names its source.

x-engine: &engine
  # One variable for the image; pin it by digest. That a ROCm tag of this version is published is not verified.
  image: ${SGLANG_ROCM_IMAGE:-lmsysorg/sglang:v0.5.23-rocm720-mi35x}
  restart: unless-stopped
  devices: ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
  # Who may open the devices; where `render` owns /dev/dri/renderD*, RENDER_GID is its number (44 is video's own).
  group_add: ["video", "${RENDER_GID:-44}"]
  # ROCm's libraries map each other's memory and are traced by debuggers: AMD's own run line has these.
  ipc: host
  shm_size: 16g
  cap_add: [SYS_PTRACE]
  security_opt: ["seccomp=unconfined"]
  volumes: ["models:/models"]
  networks: [engines]
  healthcheck:
    # /ready: up, not draining, not paused. Weights are loaded, and downloaded the first time, before it says so.
    test:
      - CMD
      - python3
      - -c
      - "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/ready', timeout=5)"
    interval: 10s
    timeout: 10s
    retries: 6
    start_period: ${ENGINE_START_PERIOD:-3600s}
  # SGLang waits without a limit for what runs; longer than the longest stream.
  stop_grace_period: 3660s
  logging: &logging
    driver: json-file
    options: {max-size: 20m, max-file: "5"}

x-lease: &lease
  # Holds the replica's place in the registry. It is stopped before the engine: it marks the replica as draining,
  # waits until nothing runs on it, and gives the lease up, so that the engine never ends under a call.
  # Before it takes the place it asks the engine what its model should know (`--canary`, docs/mi355x.md).
  image: ${SLUICE_IMAGE:-sluice:local}
  restart: unless-stopped
  init: true
  read_only: true
  tmpfs: ["/tmp:size=16m,mode=1777"]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  environment:
    REDIS_URL: ${REDIS_URL:-redis://redis:6379/0}
    REDIS_URL_FILE: ${REDIS_URL_FILE:-}
  # Where the store speaks TLS (docs/deployment.md, "Several hosts"): its authority's certificate and its URL.
  volumes: ["${SLUICE_TLS_DIR:-./conf}:/tls:ro"]
  networks: [store, engines]
  healthcheck:
    # There while the replica has its place: `up --wait` ends when all of them serve.
    test: [CMD, test, -e, /tmp/in-service]
    interval: 5s
    retries: 3
    start_period: ${ENGINE_START_PERIOD:-3600s}
  stop_grace_period: 3640s
  logging: *logging

services:
"""

TAIL = """
# The networks `store` and `engines` are those of the file that includes this one.
volumes:
  # Weights, kept between starts: /models is the Hugging Face cache.
  models:
    name: ${MODEL_VOLUME:-sluice-models}
"""


def document() -> str:
    """Give the whole file."""
    services = [text for model in FIRST_PORT for gpu in range(GPUS) for text in _pair(model, gpu)]
    return HEAD + "\n".join([*services, *_video()]) + TAIL


def _pair(model: str, gpu: int) -> Iterator[str]:
    port = FIRST_PORT[model] + gpu
    name = f"{model}-gpu{gpu}"
    profiles = [f"rocm-{model}", *(["rocm"] if gpu in MIXED[model] else [])]
    line = launch_command(model, port=port, host="0.0.0.0", gpu=gpu, otlp=COLLECTOR)  # noqa: S104 in its own network
    yield _engine(name, profiles, line.argv, line.env, port)
    yield _lease(name, profiles, "sglang", model, port)


def _video() -> Iterator[str]:
    profiles = ["rocm-wan"]
    host = "0.0.0.0"  # noqa: S104
    line = diffusion_command(VIDEO_MODEL, port=VIDEO_PORT, host=host, gpus=GPUS, otlp=COLLECTOR)
    yield _engine(VIDEO_MODEL, profiles, line.argv, line.env, VIDEO_PORT, probe="/health")
    yield _lease(VIDEO_MODEL, profiles, "diffusion", VIDEO_MODEL, VIDEO_PORT)


def _engine(
    name: str,
    profiles: list[str],
    argv: tuple[str, ...] | list[str],
    env: Mapping[str, str],
    port: int,
    probe: str = "/ready",
) -> str:
    told = {**env, "HF_HOME": "/models", "PORT": str(port)}
    lines = [
        f"  {name}:",
        "    <<: *engine",
        f"    profiles: [{', '.join(profiles)}]",
        "    command:",
        *(f"      - {_quoted(TRACE if word == '--enable-trace' else word)}" for word in argv),
        "    environment:",
        *(f"      {key}: {_quoted(value)}" for key, value in told.items()),
        "      HF_TOKEN: ${HF_TOKEN:-}",
        # Other hosts' gateways reach it by the node's address.
        f'    ports: ["${{SLUICE_NODE_BIND:-127.0.0.1}}:{port}:{port}"]',
    ]
    if probe != "/ready":
        lines += [
            "    healthcheck:",
            "      test:",
            "        - CMD",
            "        - python3",
            "        - -c",
            f"        - \"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{probe}',"
            ' timeout=5)"',
            "      interval: 10s",
            "      timeout: 10s",
            "      retries: 6",
            "      start_period: ${ENGINE_START_PERIOD:-3600s}",
        ]
    return "\n".join(lines) + "\n"


def _lease(name: str, profiles: list[str], engine: str, model: str, port: int) -> str:
    return (
        f"  {name}-lease:\n"
        "    <<: *lease\n"
        f"    profiles: [{', '.join(profiles)}]\n"
        f"    command:\n"
        f"      - replica\n"
        f"      - {engine}\n"
        f"      - --model={model}\n"
        f'      - "--url=http://${{SLUICE_NODE_ADDRESS:-{name}}}:{port}"\n'
        f"      - --hardware=mi355x\n"
        f'      - "--site=${{SLUICE_SITE:-local}}"\n'
        f"      - --drain-s=3600\n"
        f"      - --ready-file=/tmp/in-service\n"
        # restart: an engine that is made anew finds its lease drained first, and is asked its canary again.
        f"    depends_on:\n"
        f"      {name}: {{condition: service_started, restart: true}}\n"
    )


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    PATH.write_text(document())
    sys.stderr.write(f"{PATH}\n")
