"""How is each gateway started, with what it needs and nothing that slows it down for no reason?"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.dataplane import processes
from bench.dataplane.instruments import replica_urls

PEERS = Path(
    os.environ.get("BENCH_PEERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice-bench"
)
ROOT = Path(__file__).parents[2]


class NotInstalled(RuntimeError):
    """The peer is not on this machine; the message says how it gets there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target runs: its upstream's port, its own, a directory that is its own."""

    upstream: int
    port: int
    directory: Path

    @property
    def replicas(self) -> list[str]:
        """The URLs of the replicas."""
        return replica_urls(self.upstream)

    def write(self, name: str, text: str) -> str:
        """Write a configuration file, give its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; no `argv`: nothing stands between. `beside` holds a store that it needs."""

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    beside: subprocess.Popen[str] | None = None


def direct(_: Place) -> Command:
    """No gateway at all: what the instruments and the loopback cost."""
    return Command()


NGINX = """daemon off; worker_processes 1; error_log stderr crit; pid {dir}/nginx.pid;
events {{ worker_connections 32768; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_max_body_size 64m; client_body_buffer_size 128k;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  tcp_nodelay on; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
  proxy_read_timeout 600;
  upstream engine {{
    {servers} keepalive 16384; keepalive_requests 1000000;
  }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://engine; }} }}
}}
"""


def nginx(place: Place) -> Command:
    """Debian's nginx, one worker, buffering off."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise NotInstalled("nginx: apt-get install nginx-light")
    servers = " ".join(f"server {url.removeprefix('http://')};" for url in place.replicas)
    text = NGINX.format(dir=place.directory, servers=servers, port=place.port)
    config = place.write("nginx.conf", text)
    return Command((found, "-p", str(place.directory), "-c", config))


def _router(place: Place, argv: tuple[str, ...], *options: str) -> Command:
    """Add the options that the three routers share."""
    if not Path(argv[0]).exists():
        raise NotInstalled(f"{argv[0]} is missing: bench/dataplane/setup installs it")
    shared = (
        "--worker-urls", *place.replicas,
        "--host", "127.0.0.1", "--port", str(place.port),
        "--prometheus-port", str(place.port + 10),
        "--policy", "round_robin", "--log-level", "error",
    )  # fmt: skip
    return Command((*argv, *shared, *options))


def smg(place: Place) -> Command:
    """SMG (lightseekorg/smg)."""
    argv = (str(PEERS / "smg/bin/python"), "-m", "smg", "launch")
    unlimited = ("--max-concurrent-requests", "-1")
    return _router(place, argv, *unlimited, "--disable-tokenizer-autoload")


def sglang_router(place: Place) -> Command:
    """SGLang's own router."""
    argv = (str(PEERS / "sglang-router/bin/python"), "-m", "sglang_router.launch_router")
    return _router(place, argv, "--max-concurrent-requests", "-1")


def vllm_router(place: Place) -> Command:
    """The router of the vLLM project."""
    return _router(place, (str(PEERS / "vllm-router/bin/vllm-router"),))


def sluice(place: Place, *, workers: int = 1, policy: str = "promised") -> Command:
    """Sluice with everything on: keys in a store, admission, ledger, metrics, logs, traces."""
    argv = [sys.executable, "-m", "bench.dataplane.store_process", str(place.directory / "store")]
    store = subprocess.Popen(
        argv, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert store.stdout is not None  # noqa: S101 a pipe was asked for
    try:
        given = json.loads(store.stdout.readline())
    except BaseException:  # told to end meanwhile, too
        processes.end(store)
        raise
    config = {
        "host": "127.0.0.1",
        "port": place.port,
        "admin_port": place.port + 10,
        "workers": workers,
        "redis_url": given["url"],
        "routing": {"policy": policy},
        "upstream": {"connections_per_replica": 16384},
        "queue": {"max_waiting": 16384},
        # No limits: a machine that others use, too, would miss them, and be told to come back.
        "classes": {"server": {"patience_s": 600, "targets": {"default": {}}}},
        "telemetry": {
            "otlp_endpoint": f"http://127.0.0.1:{place.upstream}",
            "trace_ratio": 0.01,
            "log_level": "info",
            "log_format": "json",
        },
        "models": {
            "bench-model": {
                "replicas": [{"url": url, "max_running": 100_000} for url in place.replicas]
            }
        },
    }
    # JSON is YAML.
    path = place.write("sluice.yaml", json.dumps(config))
    return Command(
        (sys.executable, "-m", "gateway.cli", "gateway", "--config", path),
        env={"PYTHONPATH": str(ROOT), "SLUICE_ADMIN_KEY": "bench-admin-key-0123456789abcdef"},
        headers=(f"Authorization: Bearer {given['key']}",),
        beside=store,
    )


def sluice_two_workers(place: Place) -> Command:
    """Sluice with two processes on one port."""
    return sluice(place, workers=2)


def sluice_unbounded(place: Place) -> Command:
    """Sluice with a policy that fills an engine up to the engine's own limit.

    For what many open streams take: the policy that keeps promises lets no more calls onto a
    replica than its law of step times is trusted for.
    """
    return sluice(place, policy="least_outstanding")


TARGETS: Mapping[str, Callable[[Place], Command]] = {
    "direct": direct,
    "sluice": sluice,
    "nginx": nginx,
    "smg": smg,
    "sglang-router": sglang_router,
    "vllm-router": vllm_router,
    "sluice-2": sluice_two_workers,
    "sluice-unbounded": sluice_unbounded,
}
