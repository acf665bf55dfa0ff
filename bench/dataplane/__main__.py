"""Side by side: what do gateways cost per call, per stream and per chunk?

Repetitions are interleaved, so that whatever else the machine does hits every target alike.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.dataplane.bench import Bench, Figures, Run
from bench.dataplane.instruments import build
from bench.dataplane.report import bars, table
from bench.dataplane.targets import TARGETS, NotInstalled

PHASES = ("unary", "streams", "saturated", "memory")
# What a run is that names neither targets nor phases: every bar is measured. Memory of many open
# streams is measured with the policy that lets so many onto eight replicas, the soak at the end of
# Sluice's first turn.
WHOLE = {
    "direct": ("unary", "streams"),
    "sluice": ("unary", "streams", "saturated", "soak"),
    "smg": PHASES,
    "sluice-2": ("unary", "streams", "saturated"),
    "nginx": PHASES,
    "sglang-router": PHASES,
    "sluice-unbounded": ("memory",),
    "vllm-router": PHASES,
}
ONCE = ("memory", "soak")  # these vary little, and take long


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; SIGTERM ends gateways, stores and the upstream, too."""
    signal.signal(signal.SIGTERM, _leave)
    options = _parser().parse_args(arguments)
    targets: list[str] = options.target or [*WHOLE]
    found: dict[str, list[Figures]] = {}
    if options.show:
        found = _read(options.show)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            build(Path(place))
            for repetition in range(options.repetitions):
                for name in targets:
                    phases = _phases(name, options, repetition)
                    if phases and (figures := _measure(name, Path(place), options, phases)):
                        found.setdefault(name, []).append(figures)
    print(table(found))
    print()
    print(bars(found))
    return 0


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def _phases(name: str, options: argparse.Namespace, repetition: int) -> list[str]:
    """Say what a target does in a repetition; nothing: it is left out of it."""
    if options.phases is not None:
        phases = options.phases.split(",")
    else:
        phases = PHASES if options.target else WHOLE[name]
    return [each for each in phases if each not in ONCE or not repetition]


def _measure(
    name: str, binaries: Path, options: argparse.Namespace, phases: Sequence[str]
) -> Figures | None:
    try:
        with Bench(name, binaries, port=options.port, cores=options.cores.split(":")) as bench:
            run = Run(
                bench,
                for_s=options.seconds,
                soak_chunks=options.soak_chunks,
                soak_s=options.soak_seconds,
            )
            figures = run.phases(phases)
    except NotInstalled as error:
        print(f"{name}: left out, {error}", file=sys.stderr, flush=True)
        return None
    except (RuntimeError, OSError) as error:
        print(f"{name}: failed, {error}", file=sys.stderr, flush=True)
        return None
    shown = {key: round(value, 2) for key, value in figures.items()}
    print(f"[{time.strftime('%H:%M:%S')}] {name} {json.dumps(shown)}", file=sys.stderr, flush=True)
    if options.out is not None:
        with options.out.open("a") as out:
            out.write(json.dumps({"target": name, **figures}) + "\n")
    return figures


def _read(paths: Sequence[Path]) -> dict[str, list[Figures]]:
    """Read figures that were written with --out."""
    found: dict[str, list[Figures]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            figures = json.loads(line)
            found.setdefault(figures.pop("target"), []).append(figures)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane", description=__doc__)
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--phases", help="what the bars need; with --target: " + ",".join(PHASES))
    parser.add_argument("--soak-chunks", type=int, default=10_000_000)
    parser.add_argument("--soak-seconds", type=float, default=3600.0, help="at most")
    parser.add_argument("--port", type=int, default=9100, help="and 10 and 20 above it")
    parser.add_argument("--cores", default="0:1", help="instruments:gateway, as taskset reads them")
    parser.add_argument("--out", type=Path, help="append the figures to this file")
    parser.add_argument("--show", type=Path, nargs="+", help="print figures that were written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
