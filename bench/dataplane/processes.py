"""How much CPU and memory do a gateway's processes use?

CPU is the scheduler's run time, user and system, of all threads of the process tree: on a machine
that others use, too, it is steadier than any time on a wall.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """Give a process and all of its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None


def cpu_s(pids: Sequence[int]) -> float:
    """Give the CPU seconds of all live threads of these processes."""
    total_ns = 0
    for pid in pids:
        try:
            threads = [*(PROC / str(pid) / "task").iterdir()]
        except OSError:
            continue
        for thread in threads:
            try:
                total_ns += int((thread / "schedstat").read_text().split()[0])
            except (OSError, ValueError, IndexError):
                continue
    return total_ns / 1e9


def kernel_ticks(pids: Sequence[int]) -> tuple[int, int]:
    """Give clock ticks spent in user mode and in the kernel."""
    user = system = 0
    for pid in pids:
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        user, system = user + int(fields[11]), system + int(fields[12])
    return user, system


def memory_bytes(pids: Sequence[int]) -> int:
    """Give the proportional set size of these processes."""
    total = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def busy_s() -> float:
    """Give the CPU seconds that the whole machine has been busy."""
    fields = [int(each) for each in (PROC / "stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def end(process: subprocess.Popen[str], within_s: float = 5.0) -> None:
    """End a process of ours and its descendants, if need be by force."""
    if process.poll() is not None:
        return
    pids = tree(process.pid)
    _tell(pids, signal.SIGTERM)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        _tell(pids, signal.SIGKILL)
        process.wait()


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in reversed(pids):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
