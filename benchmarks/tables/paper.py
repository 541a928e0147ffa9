"""Tables of the paper (Meta OT, arXiv 2206.05262) beside ours."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from benchmarks.tables.base import Table, read, table
from benchmarks.tables.maps import by_steps
from benchmarks.tables.peers import families

ROWS = ("Sinkhorn", "Meta OT, then Sinkhorn", "Meta OT, the prediction")


@table("paper-1")
def paper_1() -> Table:
    """Table 1 of the paper beside ours: seconds to a marginal error of 1e-3."""
    theirs = read("paper")["table 1"]
    ours = {"MNIST": _mnist(), "sphere": _sphere()}
    rows = [
        [row, *(text for name in ours for text in (_seconds(theirs[name][row][0]), _seconds(ours[name][row])))]
        for row in ROWS
    ]
    rows.append(
        ["first over second row", *(f"{r:.1f}x" for name in ours for r in _gains(theirs[name], ours[name]))]
    )
    return Table(["", "MNIST: paper", "MNIST: here", "sphere: paper", "sphere: here"], rows)


def _mnist() -> dict[str, float]:
    """Return seconds of `solve`, and of a prediction, at eps = 0.01."""
    report = read("mnist/evaluation")
    place = report["tolerances"].index(0.001)
    (result,) = (result for result in report["results"] if result["eps"] == 0.01)
    solved = [result["starts"][start]["time"][place]["median_seconds"] for start in ("zeros", "model")]
    return dict(zip(ROWS, [*solved, 1e-6 * read("onnx")["predict"]["median"]], strict=True))


def _sphere() -> dict[str, float]:
    runs = read("sphere/results")["uniform"]["solve"]["runs"]
    found = [runs[name]["median_ms"] for name in ("cold 0.001", "model 0.001", "prediction")]
    return {row: ms / 1e3 for row, ms in zip(ROWS, found, strict=True)}


def _gains(theirs: dict[str, Sequence[float]], ours: dict[str, float]) -> tuple[float, float]:
    return theirs[ROWS[0]][0] / theirs[ROWS[1]][0], ours[ROWS[0]] / ours[ROWS[1]]


def _seconds(value: float) -> str:
    if value < 0.1:
        return f"{1e3 * value:.2g} ms"
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


@table("paper-1-solver")
def paper_1_solver() -> Table:
    """The paper's solver, Sinkhorn of OTT-JAX in the log domain, here: from zeros and from predictions."""
    cells, peer = families()["mnist-0.01"]["cells"], read("sphere/results")["peers"][0]
    digits = {
        "OTT log domain, all pairs of pixels": "MNIST, all pairs of pixels",
        "OTT log domain": "MNIST, atoms with mass",
        "OTT log domain from our model": "MNIST, atoms with mass, from our model",
    }
    sphere = {
        "OTT cold": "sphere, from zeros",
        "OTT from the paper's network": "sphere, from the paper's network",
        "OTT from the prediction": "sphere, from our prediction",
    }
    rows = [[words, _of(cells[name]["0.001"])] for name, words in digits.items()]
    for name, words in sphere.items():
        rows.append([words, f"{_seconds(peer[name]['seconds'])}, {peer[name]['steps']} steps"])
    return Table(["", "to 1e-3"], rows)


def _of(cell: dict[str, Any]) -> str:
    return _seconds(median(cell["ms"]) / 1e3)


@table("paper-2")
def paper_2() -> Table:
    """Table 2 of the paper beside ours: colour transfer."""
    theirs, report = read("paper")["table 2"], read("palette/evaluation")
    per_step = {curve["name"]: curve["seconds_per_step"] for curve in report["curves"]}
    first = median(report["prediction_seconds"])
    rows = []
    for method, name in (("Meta OT, then W2GN", "model"), ("W2GN", "from scratch")):
        for step, row in theirs[method].items():
            begun = first if name == "model" else 0.0
            rows.append(
                [method, step, f"{row['value'][0]:.2f}", _value(by_steps(name)[int(step)]),
                 _seconds(row["seconds"][0]), _seconds(begun + int(step) * per_step[name])]
            )  # fmt: skip
    quick = "model, Gauss-Newton"
    for step in (10, 25):
        took = _seconds(first + step * per_step[quick])
        rows.append(["Meta OT, then `GaussNewton`", str(step), "", _value(by_steps(quick)[step]), "", took])
    return Table(["", "steps", "value: paper", "value: here", "time: paper", "time: here"], rows)


def _value(values: list[float]) -> str:
    return f"{mean(values):.3f} (worst {min(values):.3f})"
