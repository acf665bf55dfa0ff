"""Where the files of the deployment lie, and how a tool is run on them."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/observability/prometheus"
DASHBOARDS = ROOT / "deploy/observability/grafana/dashboards"


def run(*command: str, cwd: Path = ROOT, within_s: float = 60.0) -> str:
    """Run a tool that is installed here; fail with what it says."""
    path = shutil.which(command[0])
    assert path is not None, command[0]
    done = subprocess.run(
        [path, *command[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
