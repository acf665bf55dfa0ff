"""How does a real diffusion server come to this machine's CPU, and with which command does it run?

SGLang's own server with the diffusers backend (its native one lacks a CPU kernel) and a tiny Wan
with random weights. What it needs beyond the engine's environment lies in a small one of its own
that reads the engine's packages, too.

Standard library only: it runs before any environment exists.
"""

import platform
from collections.abc import Mapping
from pathlib import Path

from backends.embedded import cache, environment, server, steps
from backends.embedded.environment import Workshop

TINY_WAN = "tiny-wan"
ENTRY = Path(__file__).with_name("diffusion_entry.py")
_PINS = environment.PINS / "diffusion.txt"
_WEIGHTS = environment.WEIGHTS / "tiny_wan.py"


def ensure_engine(workshop: Workshop) -> Path:
    """Build the environment unless it is there, the engine's before it; give its Python.

    Takes a minute or two and about 300 MB on top of the engine. Raises WrongPython or BuildFailed.
    """
    engine = environment.ensure_engine(workshop)
    target = _engine_dir(workshop)
    cache.build_once(
        target,
        lambda into: _build(into, engine, workshop),
        is_whole=lambda found: environment.python_of(found).exists(),
        say=workshop.say,
    )
    return environment.python_of(target)


def ensure_model(workshop: Workshop) -> Path:
    """Build the tiny Wan unless it is there; give its directory."""
    target = workshop.cache_dir / f"{TINY_WAN}-{cache.digest(_WEIGHTS)}"
    if not target.is_dir():
        python = ensure_engine(workshop)
        cache.build_once(target, lambda into: _write(into, python, workshop), say=workshop.say)
    return target


def command(python: Path, model_dir: Path, *, host: str = "127.0.0.1", port: int) -> list[str]:
    """Give the argv that starts the server; it serves when `GET /health` answers 200.

    Without a warm-up: that would make a clip of 832x480, minutes on a CPU. To be started with
    `environ`, in a directory where it may write and a session of its own.
    """
    return [
        *(str(python), "-W", "ignore", str(ENTRY)),
        *("--model-path", str(model_dir), "--model-type", "diffusion"),
        *("--host", host, "--port", str(port)),
        *("--backend", "diffusers", "--warmup-mode", "off", "--sleep-on-idle"),
    ]


def environ(base: Mapping[str, str]) -> dict[str, str]:
    """Give the server's environment on top of `base`."""
    return server.environ(base)


def _engine_dir(workshop: Workshop) -> Path:
    engine = environment.engine_dir(workshop).name
    return workshop.cache_dir / f"diffusion-{cache.digest(engine, platform.machine(), _PINS)}"


def _build(into: Path, engine: Path, workshop: Workshop) -> None:
    log = into / "build.log"
    base = environment.find_python(workshop.environ)
    workshop.say(f"embedded diffusion engine: building it once in {workshop.cache_dir}")
    steps.run("  [1/2] environment", (base, "-m", "venv", str(into)), log=log, say=workshop.say)
    (packages,) = (engine.parent.parent / "lib").glob("python*/site-packages")
    (own,) = (into / "lib").glob("python*/site-packages")
    (own / "engine.pth").write_text(f"{packages}\n", encoding="utf-8")
    install = (
        *(str(environment.python_of(into)), "-m", "pip", "--disable-pip-version-check"),
        *("install", "--no-input", "--no-deps", "--require-hashes", "--requirement", str(_PINS)),
    )
    steps.run("  [2/2] diffusers and codecs (300 MB on disk)", install, log=log, say=workshop.say)


def _write(into: Path, python: Path, workshop: Workshop) -> None:
    argv = (str(python), "-P", str(_WEIGHTS), str(into))
    offline = {**workshop.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    steps.run("tiny-wan: weights", argv, log=into / "build.log", say=workshop.say, environ=offline)
