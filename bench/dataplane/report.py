"""Which bars are met? Medians, ratios, and a table for people."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]
Found = Mapping[str, Sequence[Figures]]

UNBOUNDED = "sluice-unbounded"
ROUTERS = ("smg", "sglang-router", "vllm-router")
# Chunks per read up to which two saturated gateways are said to relay equally small pieces.
SAME_PIECES = 1.15

COLUMNS: Mapping[str, tuple[str, float]] = {
    "unary_us": ("CPU µs/unary call", 1),
    "saturated_unary_us": ("same, saturated", 1),
    "stream_us": ("CPU µs/stream", 1),
    "chunk_us": ("CPU µs/chunk", 1),
    "open_chunk_us": ("same, no stream begins", 1),
    "saturated_chunk_us_at_25600": ("at 25,600/s", 1),
    "saturated_chunk_us_at_51200": ("at 51,200/s", 1),
    "chunks_per_read_at_51200": ("chunks per read then", 1),
    "saturated_chunk_us_at_102400": ("at 102,400/s", 1),
    "chunks_per_read_at_102400": ("chunks per read then", 1),
    "unary_p50_us": ("unary p50 µs", 1),
    "ttft_p50_us": ("TTFT p50 µs", 1),
    "ttft_p99_us": ("TTFT p99 µs", 1),
    "delay_p50_us": ("chunk delay p50 µs", 1),
    "delay_p99_us": ("chunk delay p99 µs", 1),
    "calls_per_core": ("calls/s per core", 1),
    "chunks_per_core": ("chunks/s per core", 1),
    "idle_bytes": ("MB idle", 1e6),
    "memory_1000_bytes": ("MB, 1,000 streams", 1e6),
    "memory_5000_bytes": ("MB, 5,000 streams", 1e6),
    "stream_bytes": ("kB per stream", 1e3),
    "unary_store_us": ("store's µs/call beside", 1),
    "kernel_share": ("kernel share", 1),
    "others_cores": ("others' cores", 1),
    "soak_chunks": ("million chunks compared", 1e6),
    "bad": ("bad", 1),
}


def median(found: Found, target: str, name: str) -> float | None:
    """Give the median of a figure over the repetitions; None where it was not measured."""
    values = [figures[name] for figures in found.get(target, ()) if name in figures]
    return statistics.median(values) if values else None


def table(found: Found) -> str:
    """Give all figures, a gateway per line."""
    shown = [c for c in COLUMNS if any(median(found, t, c) is not None for t in found)]
    lines = [
        "| gateway | n | " + " | ".join(COLUMNS[c][0] for c in shown) + " |",
        "|" + " --- |" * (len(shown) + 2),
    ]
    for target, repetitions in found.items():
        cells = [_number(median(found, target, c), COLUMNS[c][1]) for c in shown]
        lines.append(f"| {target} | {len(repetitions)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return ""
    value /= unit
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure of Sluice's over another's, with what it must not exceed."""

    what: str
    bar: float
    stretch: float | None
    value: Callable[[Found], float | None]


def bars(found: Found) -> str:
    """Give each bar with met or not met."""
    lines = ["| figure | measured | bar | stretch | |", "| --- | --- | --- | --- | --- |"]
    for each in BARS:
        value = each.value(found)
        shown = "not measured" if value is None else f"{value:.2f}"
        stretch = "" if each.stretch is None else f"<= {each.stretch:g}"
        lines.append(
            f"| {each.what} | {shown} | <= {each.bar:g} | {stretch} | {_met(each, value)} |"
        )
    return "\n".join(lines)


def _met(bar: Bar, value: float | None) -> str:
    if value is None:
        return ""
    if bar.stretch is not None and value <= bar.stretch:
        return "stretch met"
    return "met" if value <= bar.bar else "NOT MET"


def _over(name: str, peer: str, ours: str = "sluice") -> Callable[[Found], float | None]:
    """Sluice's figure over a peer's."""

    def ratio(found: Found) -> float | None:
        return _divided(median(found, ours, name), median(found, peer, name))

    return ratio


def _over_best_router(name: str) -> Callable[[Found], float | None]:
    def ratio(found: Found) -> float | None:
        theirs = [v for peer in ROUTERS if (v := median(found, peer, name)) is not None]
        return _divided(median(found, "sluice", name), min(theirs) if theirs else None)

    return ratio


def _added(name: str, peer: str) -> Callable[[Found], float | None]:
    """What Sluice adds to no gateway at all, over what a peer adds."""

    def ratio(found: Found) -> float | None:
        ours, theirs, none = (median(found, t, name) for t in ("sluice", peer, "direct"))
        if ours is None or theirs is None or none is None:
            return None
        return _divided(ours - none, theirs - none)

    return ratio


def _saturated(found: Found) -> float | None:
    """At the highest rate at which both relay about one chunk per read."""
    best: float | None = None
    for per_s in (25_600, 51_200, 102_400):
        pieces = [median(found, t, f"chunks_per_read_at_{per_s}") for t in ("sluice", "smg")]
        if all(p is not None and p <= SAME_PIECES for p in pieces):
            best = _over(f"saturated_chunk_us_at_{per_s}", "smg")(found)
    return best


def _divided(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _figure(target: str, name: str, unit: float) -> Callable[[Found], float | None]:
    def value(found: Found) -> float | None:
        ours = median(found, target, name)
        return None if ours is None else ours / unit

    return value


def _two_workers(name: str) -> Callable[[Found], float | None]:
    def ratio(found: Found) -> float | None:
        return _divided(median(found, "sluice-2", name), median(found, "sluice", name))

    return ratio


def _wrong(found: Found) -> float | None:
    parts = [median(found, "sluice", n) for n in ("soak_lost", "soak_altered", "soak_bad")]
    return None if None in parts else sum(p for p in parts if p is not None)


BARS = (
    Bar("CPU per chunk / smg", 0.9, 0.75, _over("chunk_us", "smg")),
    Bar("CPU per chunk / best router", 1.0, 0.85, _over_best_router("chunk_us")),
    Bar("CPU per chunk / nginx", 1.2, 1.05, _over("chunk_us", "nginx")),
    Bar("CPU per chunk, saturated, equal chunks per read / smg", 1.0, 0.9, _saturated),
    Bar("CPU per unary call / smg", 1.0, 0.75, _over("unary_us", "smg")),
    Bar("CPU per unary call, saturated / smg", 0.8, 0.4, _over("saturated_unary_us", "smg")),
    Bar("CPU per stream / smg", 1.0, 0.8, _over("stream_us", "smg")),
    Bar("added TTFT p50 / smg's", 1.0, 0.7, _added("ttft_p50_us", "smg")),
    Bar("added chunk delay p50 / smg's", 1.0, 0.5, _added("delay_p50_us", "smg")),
    Bar("memory, 1,000 streams / smg", 0.6, 0.4, _over("memory_1000_bytes", "smg", UNBOUNDED)),
    Bar("kB per stream at 5,000", 40, 20, _figure(UNBOUNDED, "stream_bytes", 1e3)),
    Bar("chunks lost, out of order or altered", 0, None, _wrong),
    Bar("CPU per unary call, 2 workers / 1", 1.1, 1.0, _two_workers("unary_us")),
    Bar("CPU per chunk, 2 workers / 1", 1.1, 1.0, _two_workers("chunk_us")),
)
