"""How does a slow command run, so that a person sees it move and learns why it failed?"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.embedded.cache import Say

BEAT_S = 10.0
TAIL_LINES = 15
TERMINATE_WITHIN_S = 5.0


class BuildFailed(Exception):
    """A step of a build ended badly; the message holds the end of its output."""


def run(
    title: str,
    argv: Sequence[str],
    *,
    log: Path,
    say: Say,
    environ: Mapping[str, str] | None = None,
    beat_s: float = BEAT_S,
) -> None:
    """Run `argv` to its end with its output appended to `log`; raise BuildFailed when it fails.

    Says `title` at the start, the seconds spent every `beat_s`, and the total. An interrupt ends
    the command and all that it started.
    """
    say(f"{title} ...")
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(beat_s)
                except subprocess.TimeoutExpired:
                    say(f"{title} ... {time.monotonic() - started:.0f} s")
        finally:
            _end(process)
    if process.returncode != 0:
        raise BuildFailed(f"{title}: exit status {process.returncode}\n{_tail(log)}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(TERMINATE_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
