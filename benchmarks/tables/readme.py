"""Tables of the README: when a model helps, and against other libraries."""

from statistics import mean, median

from benchmarks.tables.base import Table, read, table, times
from benchmarks.tables.images import time_ratios
from benchmarks.tables.peers import NONE, families, model_of, over_the_fastest_peer

COMPARED = {
    "mnist-0.01": "MNIST, 28 x 28, eps = 0.01",
    "paintings64-0.01": "paintings, 64 x 64, eps = 0.01",
    "paintings64-0.001": "paintings, 64 x 64, eps = 0.001",
    "paintings256-0.01": "paintings, 256 x 256, eps = 0.01",
    "cloud2": "clouds of 1000 points in the plane",
}
EPS = (0.01, 0.001)


@table("readme-model")
def helps() -> Table:
    """Time from the model over the best start without one, to 1e-3."""
    digits = [" / ".join(pair) for pair in zip(_digits("mnist"), _digits("mnist-batch64"), strict=True)]
    rows = [["digits, 28 x 28: one pair / 64 in a batch", *digits]]
    rows += [_paintings(side) for side in (64, 256)]
    rows.append(_images())
    sphere = read("sphere/results")["uniform"]["solve"]["ratio"]["0.001"]
    rows.append(["100 suppliers, 10000 customers on the sphere", "", times(sphere)])
    rows.append(["a rolling day there, to 1e-6: over the solution before", "", times(_day())])
    rows.append(["100 suppliers, 1000 customers, travel times that change", times(_roads()), ""])
    return Table(["time of `solve` from the model / without", *(f"eps = {eps:g}" for eps in EPS)], rows)


def _roads() -> float:
    """Return the ratio on unseen networks, at eps = 0.01 of the mean cost."""
    row = next(row for row in read("roads")["roads"] if row["kind"] == "unseen networks")
    return float(row["time over the best start without learning"])


def _digits(name: str) -> list[str]:
    report = read(f"{name}/evaluation")
    place = report["tolerances"].index(0.001)
    found = {result["eps"]: time_ratios(result["starts"])[place] for result in report["results"]}
    return [times(found[eps]) for eps in EPS]


def _paintings(side: int) -> list[str]:
    rows = {(row["side"], row["eps"]): row["ratio"] for row in read("scale-grids")["model"]}
    return [f"paintings, {side} x {side}: one pair", *(times(rows[side, eps]) for eps in EPS)]


def _images() -> list[str]:
    """Return the mean ratio of four image sets in batches of 64."""
    rows = [row for row in read("universal-times")["rows"] if row["batch"] == 64]
    found = {eps: mean(row["ratio"] for row in rows if row["eps"] == eps) for eps in EPS}
    return ["images, 64 x 64: 64 pairs in a batch", *(times(found[eps]) for eps in EPS)]


def _day() -> float:
    day = read("sphere/day")
    return median(day["model"]["seconds"]) / median(day["previous"]["seconds"])


@table("readme-peers")
def compared() -> Table:
    """Time over that of the fastest other library."""
    rows = []
    for name, words in COMPARED.items():
        family = families()[name]
        model = None if name.startswith("paintings") else model_of(family)  # which solve leaves out there
        methods = ["metaot, cold", model]
        cells = [
            times(found) if found else NONE
            for method in methods
            for target in ("0.001", "1e-06")
            for found in ([over_the_fastest_peer(family, method, target)] if method else [])
        ]
        rows.append([words, *cells, *[""] * (4 - len(cells))])
    head = ["cold, to 1e-3", "cold, to 1e-6", "from the model, to 1e-3", "from the model, to 1e-6"]
    return Table(["time / that of the fastest other library", *head], rows)
