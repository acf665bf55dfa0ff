"""Is a pinned dependency known to be vulnerable? Asks pip-audit about each image. `make audit`.

Exit status: 0 when all were looked up and none is known, 1 when some are, 2 when some could not be
looked up, since the data was out of reach. That is no clean result, and is not told as one.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILES = ("image", "autoscaler", "loadtest")
TOOL = "pip-audit==2.10.1"
WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found of one file: `package version: ids`; packages that nothing is known of."""

    audited: int
    vulnerable: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def status(self) -> int:
        """The exit status."""
        if self.vulnerable:
            return 1
        return 2 if self.skipped or not self.audited else 0


def read(report: Mapping[str, Any]) -> Audit:
    """Read pip-audit's JSON."""
    found: Iterable[Mapping[str, Any]] = report["dependencies"]
    known = [each for each in found if "skip_reason" not in each]
    return Audit(
        len(known),
        tuple(
            f"{each['name']} {each['version']}: {', '.join(v['id'] for v in each['vulns'])}"
            for each in known
            if each["vulns"]
        ),
        tuple(str(each["name"]) for each in found if "skip_reason" in each),
    )


def told(name: str, audit: Audit) -> str:
    """Say it in a few lines."""
    lines = [f"{name}: {audit.audited} looked up, {len(audit.vulnerable)} known to be vulnerable"]
    lines += [f"  {each}" for each in audit.vulnerable]
    if audit.skipped:
        lines.append(
            f"  NOT AUDITED: {len(audit.skipped)}, as no data on them could be had from here"
            f" ({', '.join(audit.skipped[:4])}{', ...' if len(audit.skipped) > 4 else ''})"
        )
    return "\n".join(lines)


def main() -> int:
    """Audit all files; give the gravest status."""
    statuses = []
    for name in FILES:
        done = subprocess.run(
            [
                *(str(ROOT / ".venv/bin/uv"), "tool", "run", "--from", TOOL, "pip-audit"),
                *("--disable-pip", "--require-hashes", "--no-deps", "--format", "json"),
                *("--progress-spinner", "off", "-r", f"constraints/{name}.txt"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        try:
            audit = read(json.loads(done.stdout))
        except (json.JSONDecodeError, KeyError):
            sys.stdout.write(f"{name}: NOT AUDITED, pip-audit says: {done.stderr.strip()[-500:]}\n")
            statuses.append(2)
            continue
        sys.stdout.write(told(name, audit) + "\n")
        statuses.append(audit.status)
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
