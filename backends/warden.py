"""Who ends a child process when the process that wanted it is gone?

Run as a script, with the standard library alone: `python -I -S warden.py --log F -- argv...`. It
stands between a parent and one child, and holds one end of a pipe (its standard input) whose other
end only the parent has. End of file there means that the parent is gone, however it ended.
PR_SET_PDEATHSIG alone would not do: it fires when the *thread* that forked ends, reaches one
process instead of a tree, and gives no time to shut down. Here it is a second line, between the
warden and its child, where it is safe, since a warden has one thread.

It writes one line on standard output, `pid N` or `error WHY`, and exits as its child does (128 + n
after signal n). SIGTERM passes to the child alone, whose own children may be needed to drain; after
the grace the whole tree is killed.
"""

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127


def main(argv: Sequence[str]) -> int:
    """Start the child, pass signals on, outlive neither it nor the parent; give the exit status."""
    options = _options(argv)
    wake = _wake_on_signals()
    libc = _libc()
    if libc is not None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def die_with_warden() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        with Path(options.log).open("ab") as log:
            # One thread, so a preexec_fn is safe here.
            child = subprocess.Popen(
                options.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_warden,
            )
    except OSError as error:
        _say(f"error {error}")
        return NOT_STARTED
    _say(f"pid {child.pid}")
    status = _watch(child.pid, wake, grace_s=options.grace, orphan_grace_s=options.orphan_grace)
    _kill_tree(child.pid)
    child.returncode = status
    return status


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="warden")
    parser.add_argument("--log", required=True, help="file that the child's output is added to")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument(
        "--orphan-grace", type=float, default=5.0, help="the same, once the parent is gone"
    )
    parser.add_argument("argv", nargs="+")
    return parser.parse_args(argv)


def _watch(pid: int, wake: int, *, grace_s: float, orphan_grace_s: float) -> int:
    """Wait for the child to end; give its exit status."""
    watched = [0, wake]
    kill_at: float | None = None
    while True:
        status = _reap(pid)
        if status is not None:
            return status
        now = time.monotonic()
        if kill_at is not None and now >= kill_at:
            _kill_group(pid)
            kill_at = None
        timeout = None if kill_at is None else kill_at - now
        for ready in select.select(watched, [], [], timeout)[0]:
            signals = os.read(ready, 64)
            if ready == 0 and not signals:
                watched = [wake]
                _terminate(pid)
                soon = time.monotonic() + orphan_grace_s
                kill_at = soon if kill_at is None else min(kill_at, soon)
            elif ready == wake and any(s in (signal.SIGTERM, signal.SIGINT) for s in signals):
                if kill_at is None:
                    _terminate(pid)
                    kill_at = time.monotonic() + grace_s
                else:  # told twice
                    kill_at = time.monotonic()


def _reap(pid: int) -> int | None:
    """Collect what has ended; the child's exit status once it is among them."""
    found: int | None = None
    while True:
        try:
            ended, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            code = os.waitstatus_to_exitcode(raw)
            found = code if code >= 0 else 128 - code


def _kill_tree(pid: int) -> None:
    """Kill what is left of the child's group, then descendants that left it (we adopt those)."""
    _kill_group(pid)
    give_up_at = time.monotonic() + 5.0
    while time.monotonic() < give_up_at:
        _reap(pid)
        left = _children()
        if not left:
            return
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _terminate(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _wake_on_signals() -> int:
    """Have signals written into a pipe; give the end to read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(each, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _say(line: str) -> None:
    """Tell the parent, then let go of the pipe."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())
        os.dup2(2, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
