"""Where do things that take minutes to build live, and how does one appear whole or not at all?

Standard library only: it runs before any environment exists.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def say_on_stderr(line: str) -> None:
    """Tell a person how far a build is; stdout stays free for the answer."""
    print(line, file=sys.stderr, flush=True)


def root(environ: Mapping[str, str]) -> Path:
    """Give the cache directory: SLUICE_CACHE_DIR, else `sluice` in the user's cache directory."""
    if chosen := environ.get("SLUICE_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "sluice"
    return Path.home() / ".cache" / "sluice"


def digest(*parts: str | Path) -> str:
    """Name what a thing is built from: 12 hex digits over texts and the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part.read_bytes()
        # The length first, so that a byte that moves from one part to the next changes the name.
        total.update(len(content).to_bytes(8, "big"))
        total.update(content)
    return total.hexdigest()[:12]


def build_once(
    target: Path,
    build: Callable[[Path], None],
    *,
    is_whole: Callable[[Path], bool] = Path.is_dir,
    say: Say = say_on_stderr,
) -> bool:
    """Make the directory `target` by `build(directory)` unless it is there; say if it was built.

    `build` fills a directory beside `target`, which is renamed when it returns: `target` is whole
    whenever it exists. One process builds, others wait for it. What a failed or killed build left
    is removed by the next one.
    """
    if is_whole(target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, say):
        if is_whole(target):
            return False
        for leftover in target.parent.glob(f"{target.name}.building-*"):
            shutil.rmtree(leftover)
        if target.exists():  # there, yet not whole: the interpreter that it was made from is gone
            shutil.rmtree(target)
        scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.building-", dir=target.parent))
        scratch.chmod(0o755)
        try:
            build(scratch)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return True


@contextmanager
def _locked(target: Path, say: Say) -> Iterator[None]:
    """Hold the build of `target`; the kernel lets go when this process ends, however it ends."""
    descriptor = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{target.name}: another process builds it; waiting")
            started = time.monotonic()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            say(f"{target.name}: waited {time.monotonic() - started:.0f} s")
        yield
    finally:
        os.close(descriptor)
