"""Tables of maps between samples: colour transfer, and maps that are known."""

from itertools import pairwise
from statistics import mean
from typing import Any

from benchmarks.tables.base import Table, of_all, read, table

CURVES = {
    "from scratch": "W2GN from the identity",
    "model": "model, then W2GN",
    "model, Gauss-Newton": "model, then `GaussNewton`",
}


def normalised(values: list[list[float]]) -> list[list[float]]:
    """Return dual values, for each step a list over the pairs, on the scale of table 2 of the paper."""
    curves = {curve["name"]: curve["values"] for curve in read("palette/evaluation")["curves"]}
    scales = [[*a, *b] for a, b in zip(curves["from scratch"], curves["model"], strict=True)]
    rows = [
        [(value - min(scale)) / (max(scale) - min(scale)) for value in row]
        for row, scale in zip(values, scales, strict=True)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def linear() -> list[float]:
    return normalised([[value] for value in read("palette/evaluation")["linear"]])[0]


def by_steps(name: str) -> dict[int, list[float]]:
    """Return the normalised values of all pairs after each number of steps."""
    report = read("palette/evaluation")
    (values,) = (curve["values"] for curve in report["curves"] if curve["name"] == name)
    return dict(zip(report["steps"], normalised(values), strict=False))


@table("palette-values")
def palette_values() -> Table:
    """Normalised dual values, mean (worst), by steps."""
    shown = [0, 10, 25, 100, 250, 1000, 2000]
    rows = [["Gaussian (Bures) map", of_all(linear()), *[""] * (len(shown) - 1)]]
    for name, words in CURVES.items():
        found = by_steps(name)
        rows.append([words, *(of_all(found[step]) if step in found else "" for step in shown)])
    return Table(["", "prediction", *(f"{step} steps" for step in shown[1:])], rows)


def worth() -> tuple[int, int]:
    """Return between which numbers of steps W2GN from scratch comes to the mean of the predictions."""
    scratch, predicted = by_steps("from scratch"), mean(by_steps("model")[0])
    return next((low, high) for low, high in pairwise(scratch) if mean(scratch[high]) >= predicted)


def gauss_newton_worth() -> float:
    """Return how many steps of W2GN take as long as one of Gauss-Newton."""
    seconds = {curve["name"]: curve["seconds_per_step"] for curve in read("palette/evaluation")["curves"]}
    return seconds["model, Gauss-Newton"] / seconds["from scratch"]


@table("palette-budgets")
def palette_budgets() -> Table:
    """Beside entropic transport between samples, at equal time: what is left of the sliced distance."""
    rows = [
        [budget, *(_budget_cell(found.get(family)) for family in ("linear", "model", "discrete", "progressive"))]
        for budget, found in read("palette/discrete")["budgets"].items()
    ]
    return Table(["within", "linear", "model", "discrete", "progressive"], rows)


def _budget_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "none"
    _, _, setting = row["setting"].partition(", ")
    note = f" ({setting})" if setting else ""
    return f"{row['left']:.3f}{note}, {row['ms']:.2g} ms, {row['seconds for a million pixels']:.2g} s"


@table("palette-training")
def palette_training() -> Table:
    """Two networks after about the same time of training: normalised value of their predictions."""
    rows = []
    for name, row in read("palette/training").items():
        facts = [f"{row['parameters'] / 1e6:.1f} M", str(row["steps"])] if "steps" in row else ["", ""]
        seconds = f"{row['training seconds, wall clock']:.0f} s" if "steps" in row else ""
        value = f"{row['normalised value, mean']:.3f} ({row['normalised value, worst']:.3f})"
        rows.append([f"`{name}`" if facts[0] else name, *facts, seconds, value])
    return Table(["", "weights", "steps", "training", "value, mean (worst)"], rows)


@table("palette-times")
def palette_times() -> Table:
    """`metaot recolor` in a fresh process."""
    rows = [
        [name, f"{row['seconds']:.2f} s", f"{row['processor']:.2f} s", f"{row['MB']:.0f} MB"]
        for name, row in read("palette/times")["recolor"].items()
    ]
    return Table(["picture", "time", "processor", "memory"], rows)


@table("planted")
def planted() -> Table:
    """Known maps: L2-UVP on unseen samples, mean (worst)."""
    dims = read("planted")["dimensions"]
    names = list(next(iter(dims.values()))["ways"])
    rows = [
        [name, *(f"{r['L2-UVP, mean']:.2f} % ({r['L2-UVP, worst']:.2f} %)" for r in _ways(name))] for name in names
    ]
    return Table(["L2-UVP", *(f"d = {dim}" for dim in dims)], rows)


def _ways(name: str) -> list[dict[str, Any]]:
    return [found["ways"][name] for found in read("planted")["dimensions"].values()]
