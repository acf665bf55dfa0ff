"""What does each rule cost for what it keeps? A picture: one panel per fleet, attainment against
unit-hours over the perfect-knowledge bound. Needs matplotlib, which nothing else here does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Beyond this a rule is drawn at the edge: provisioning for the peak costs up to four times as much.
_MOST_RATIO = 1.45
_LINES: Mapping[str, Literal["-", ":"]] = {"step": "-", "smooth": ":"}
_TICKS = (90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.99)


@dataclass(frozen=True, slots=True)
class Spot:
    """A rule on a fleet: `family` is the rule without its target, `ratio` its cost over the
    bound's.
    """

    fleet: str
    how: str
    family: str
    attainment: float
    ratio: float


def spots_of(results: Sequence[Mapping[str, Any]], cold_start_s: float) -> list[Spot]:
    """Take what is drawn out of a benchmark's results (their JSON) for one cold start."""
    return [
        Spot(
            str(r["case"]["fleet"]),
            str(r["case"]["how"]),
            str(r["setting"]["title"] or r["setting"]["rule"]).split(",")[0],
            float(r["attainment"]),
            float(r["ratio"]),
        )
        for r in results
        if r["cold_start_s"] == cold_start_s
    ]


def draw(spots: Sequence[Spot], path: Path, *, title: str = "") -> None:
    """Write the picture (PNG or SVG by the name); raises ValueError without anything to draw."""
    if not spots:
        raise ValueError("nothing to draw: no result has this cold start")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    fleets = list(dict.fromkeys(each.fleet for each in spots))
    families = list(dict.fromkeys(each.family for each in spots))
    figure, axes = pyplot.subplots(
        1, len(fleets), figsize=(4.6 * len(fleets), 4.8), sharey=True, squeeze=False
    )
    colours = {name: f"C{i % 10}" for i, name in enumerate(families)}
    for panel, fleet in zip(axes[0], fleets, strict=True):
        for name in families:
            _family(panel, [s for s in spots if (s.fleet, s.family) == (fleet, name)], colours)
        _frame(panel, fleet)
    axes[0][0].set_ylabel("attainment over all that was offered")
    handles = [
        Line2D([], [], color=colours[n], marker=_marker(n), linestyle="", label=n) for n in families
    ]
    handles += [
        Line2D([], [], color="0.3", linestyle=line, marker="o", mfc=_fill(how, "0.3"), label=how)
        for how, line in _LINES.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False)
    figure.suptitle(title + "; a mark at the right edge lies further right")
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _marker(family: str) -> str:
    return "*" if family == "ours" else "o"


def _fill(how: str, colour: str) -> str:
    return colour if how == "step" else "white"


def _family(panel: Any, mine: Sequence[Spot], colours: Mapping[str, str]) -> None:
    for how, line in _LINES.items():
        path = sorted((s for s in mine if s.how == how), key=lambda s: s.ratio)
        if not path:
            continue
        ours = path[0].family == "ours"
        panel.plot(
            [min(s.ratio, _MOST_RATIO) for s in path],
            [_height(s.attainment) for s in path],
            color=colours[path[0].family],
            linestyle=line,
            linewidth=2.0 if ours else 0.9,
            marker=_marker(path[0].family),
            markersize=13 if ours else 6,
            markeredgecolor="black" if ours else colours[path[0].family],
            markerfacecolor=_fill(how, colours[path[0].family]),
            zorder=3 if ours else 2,
        )


def _frame(panel: Any, fleet: str) -> None:
    for promise in (0.99, 0.995):
        panel.axhline(_height(promise), color="0.7", linewidth=0.8, linestyle="--", zorder=1)
    panel.set_yticks([_height(t / 100.0) for t in _TICKS], [f"{t:g} %" for t in _TICKS])
    panel.set_ylim(_height(0.975), _height(0.99995))
    panel.set_xlim(1.0, _MOST_RATIO + 0.02)
    panel.set_title(fleet)
    panel.set_xlabel("unit-hours over the perfect-knowledge bound")
    panel.grid(alpha=0.25)


def _height(attainment: float) -> float:
    """Each factor of the missed share takes the same room; all of it kept is drawn at the top."""
    return -math.log10(max(1.0 - attainment, 5e-5))
