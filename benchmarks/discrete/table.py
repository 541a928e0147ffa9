"""The Markdown tables, from the committed results."""

from statistics import median, quantiles
from typing import Any

from benchmarks.discrete.measure import LIMIT, OK
from benchmarks.discrete.methods.base import EXACT, PEER

Cells = dict[str, dict[str, Any]]
ENOUGH = 0.8
"""Share of the instances that must have reached the accuracy for a method to count as the fastest."""


def families_table(results: dict[str, Any]) -> str:
    """Return a heading and a table of all methods for each problem."""
    return "\n".join(_family(family, results["methods"]) for family in results["families"].values())


def fastest(cells: Cells, target: str, names: list[str]) -> str | None:
    """Return the method with the lowest median among those that reached the accuracy."""
    times = {
        name: median(cells[name][target]["ms"])
        for name in names
        if name in cells and _reached(cells[name][target], float(target)) >= ENOUGH
    }
    return min(times, key=lambda name: times[name]) if times else None


def peers(methods: dict[str, Any]) -> list[str]:
    return [name for name, kind in methods.items() if kind["kind"] == PEER]


def entropic(methods: dict[str, Any]) -> list[str]:
    return [name for name, kind in methods.items() if kind["kind"] != EXACT]


def _family(family: dict[str, Any], methods: dict[str, Any]) -> str:
    cells, size = family["cells"], family["size"]
    targets = list(next(iter(cells.values())))
    best_peer = {t: fastest(cells, t, peers(methods)) for t in targets}
    best = {t: fastest(cells, t, entropic(methods)) for t in targets}
    what = f"{family['count']} instances" if size == 1 else f"{family['count']} batches, ms for each instance"
    lines = [f"## {family['title']}", "", f"{what}.", ""]
    lines += [_row(["method", *(f"L1 error {t}" for t in targets)]), "|---" + "|--:" * len(targets) + "|"]
    for name, row in cells.items():
        texts = []
        for target in targets:
            reference = best_peer[target]
            base = cells[reference][target]["ms"] if reference else None
            texts.append(_cell(row[target], target, base, family, bold=best[target] == name))
        lines.append(_row([name, *texts]))
    verdicts = [_verdict(cells, t, best[t], best_peer[t], methods) for t in targets]
    return "\n".join([*lines, "", " ".join(text for text in verdicts if text), ""])


def _cell(
    cell: dict[str, Any], target: str, base: list[float] | None, family: dict[str, Any], *, bold: bool
) -> str:
    size, count, limit = family["size"], family["count"], family["limit"]
    if cell["status"] != OK:
        return f"> {limit:g} s" if cell["status"] == LIMIT else cell["status"]
    ms = [time / size for time in cell["ms"]]
    p95 = quantiles(ms, n=20)[-1] if len(ms) > 1 else ms[0]
    text = f"{median(ms):.3g}"
    text = f"**{text}** ({min(p95, max(ms)):.3g})" if bold else f"{text} ({min(p95, max(ms)):.3g})"
    if base:
        text += f" {ratio(cell['ms'], base):.2f}x"
    reached = _reached(cell, float(target))
    notes = [f"n={len(ms)}"] if len(ms) < count else []
    notes += [f"{100 * reached:.0f} % reached"] if reached < 1 else []
    return f"{text} [{', '.join(notes)}]" if notes else text


def ratio(ms: list[float], base: list[float]) -> float:
    """Return the median ratio of the instances that both were timed on."""
    return median(mine / theirs for mine, theirs in zip(ms, base, strict=False))


def _reached(cell: dict[str, Any], target: float) -> float:
    errors = cell.get("error", [])
    return sum(error is not None and error <= target for error in errors) / len(errors) if errors else 0.0


def _verdict(cells: Cells, target: str, best: str | None, peer: str | None, methods: dict[str, Any]) -> str:
    if best is None or peer is None:
        return ""
    if best == peer:
        ours = fastest(cells, target, [name for name, kind in methods.items() if kind["kind"] == "metaot"])
        if ours is None:
            return f"To {target} only other libraries finish, {peer} first."
        factor = ratio(cells[ours][target]["ms"], cells[peer][target]["ms"])
        return f"To {target} a peer wins: {peer}; {ours} takes {factor:.2f} times as long."
    factor = ratio(cells[best][target]["ms"], cells[peer][target]["ms"])
    return f"To {target}: {best}, {factor:.2f} of the time of {peer}."


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
