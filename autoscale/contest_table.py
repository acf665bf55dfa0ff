"""How are the results of a contest shown?"""

from collections.abc import Sequence

from autoscale.contest import Result


def table(results: Sequence[Result]) -> str:
    """Write results as a Markdown table: a row per rule, a cell per fleet and reconstruction."""
    columns = list(dict.fromkeys((r.case.fleet, r.case.how) for r in results))
    head = ["rule", "D (s)", *(f"{fleet} {how}" for fleet, how in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    rows = dict.fromkeys((r.setting.label, r.cold_start_s) for r in results)
    for name, cold in rows:
        cells = []
        for column in columns:
            found = [
                r
                for r in results
                if (r.setting.label, r.cold_start_s, (r.case.fleet, r.case.how))
                == (name, cold, column)
            ]
            cells.append(_cell(found))
        lines.append(f"| {name} | {cold:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Sequence[Result]) -> str:
    if not found:
        return ""
    attainment = sorted(r.attainment for r in found)
    ratio = sorted(r.ratio for r in found)
    middle = len(found) // 2
    text = (
        f"{attainment[middle] * 100:.2f} % at {ratio[middle]:.3f}, {found[0].actions_per_day:.0f}"
    )
    if len(found) > 1:
        text += f" (min {attainment[0] * 100:.2f}, max {ratio[-1]:.3f})"
    return text
