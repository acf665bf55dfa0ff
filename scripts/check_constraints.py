"""Are the pins complete, and do they satisfy what pyproject.toml asks for?

Needs no network: a requirement that no pin satisfies, a pin without a hash, and an address of an
index are faults. `make lock` mends them.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PINS = Path("backends/embedded/pins")
# The engine's extra documents what the embedded engine runs; it has an environment of its own.
LOCKED_EXTRAS = ("autoscale", "bench", "docker", "kubernetes", "loadtest")
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)")


def main() -> int:
    """Print each fault; exit status 1 when there is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = project["project"]["dependencies"]
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    build = list(_group("build", groups))
    dev = [*runtime, *(item for name in LOCKED_EXTRAS for item in extras[name])]
    faults = [
        *_faults(Path("constraints/runtime.txt"), [*runtime, *build]),
        *_faults(Path("constraints/dev.txt"), [*dev, *_group("dev", groups)]),
        *_faults(PINS / "engine.txt", _lines(PINS / "engine.in")),
        *_faults(PINS / "sglang.txt", _lines(PINS / "sglang.in")),
        *_faults(PINS / "model.txt", _lines(PINS / "model.in")),
    ]
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


def _faults(path: Path, wanted: Iterable[str]) -> Iterator[str]:
    text = (ROOT / path).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    versions: dict[str, set[str]] = {}
    for entry in entries:
        pin = PIN.match(entry)
        if pin is None:
            yield f"{path}: not a pin: {entry.splitlines()[0]}"
            continue
        if "--hash=sha256:" not in entry:
            yield f"{path}: {pin['name']} has no hash"
        versions.setdefault(canonicalize_name(pin["name"]), set()).add(pin["version"])
    if re.search(r"://|--(extra-)?index-url|--find-links", text):
        yield f"{path}: holds the address of an index"
    for requirement in map(Requirement, wanted):
        found = versions.get(canonicalize_name(requirement.name), set())
        if not any(requirement.specifier.contains(version, prereleases=True) for version in found):
            yield f"{path}: no pin satisfies {requirement}"


def _group(name: str, groups: Mapping[str, list[Any]]) -> Iterator[str]:
    for item in groups[name]:
        if isinstance(item, str):
            yield item
        else:
            yield from _group(item["include-group"], groups)


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in lines if line]


if __name__ == "__main__":
    sys.exit(main())
