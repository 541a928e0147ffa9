"""The Markdown tables, from the committed results."""

from statistics import median, quantiles
from typing import Any

from benchmarks.discrete.measure import LIMIT, OK
from benchmarks.discrete.methods.base import EXACT, PEER

Cells = dict[str, dict[str, Any]]
ENOUGH = 0.8
"""Share of the instances that must have reached the accuracy for a method to count as the fastest."""

HEAD = """\
# Time to an accuracy

Median time of a solve in ms (p95), then the median over instances of its ratio to the fastest peer's time: below
1x is faster than every other library. The fastest method of a column is bold. The accuracy is the L1 error of
both marginals. `n=`: slow, and timed on fewer instances. `% reached`: the rest missed the accuracy, or failed.
"from our model": another library, started from metaot's prediction, whose time counts; it is no peer in the
ratios. Exact transport solves another problem (no eps), and is no peer in the ratios either. Each timed
solve follows one of the instance before by the same method, which is not timed. A solve of less than 50 ms in
which another process was given the core is timed again. "The exported model" is numpy and onnxruntime.

"""


def report(results: dict[str, Any]) -> str:
    """Return all tables."""
    parts = [HEAD]
    for family in results["families"].values():
        parts.append(_family(family, results["methods"]))
    parts += _extras(results.get("extras", {}))
    machine = results["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    parts.append(f"{libraries}; {machine['threads']} threads, float64, {machine['platform']}.\n")
    return "\n".join(parts)


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


def _extras(extras: dict[str, Any]) -> list[str]:
    parts = []
    if "bad-starts" in extras:
        lines = [
            "## Bad starts",
            "",
            _row(["eps", "starts", "more than one step more than cold", "most", "unfinished"]),
        ]
        lines += ["|---" * 5 + "|"]
        for row in extras["bad-starts"]:
            columns = ("eps", "starts", "worse", "most_extra_steps", "unfinished")
            lines.append(_row([f"{row[key]:g}" for key in columns]))
        lines += ["", "MNIST pairs to 1e-6; f and g are normal noise times 10^U(-3, 2), in units of the cost."]
        parts.append("\n".join([*lines, ""]))
    if "memory" in extras:
        row = extras["memory"]
        parts.append(
            f"## Memory\n\nOne pair of {row['side']} x {row['side']} images, eps = {row['eps']:g}, cold, to "
            f"{row['tol']:g}: {row['seconds']:.3g} s, {row['steps']} steps, {row['mib_above_start']:.0f} MiB "
            f"above what the imports and the data hold{'' if row['converged'] else ' (did not converge)'}.\n"
        )
    return parts


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
