"""Tables of images: the model of MNIST, and the one for any image."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from benchmarks.tables.base import Table, p95, percent, read, table, times

STARTS = ("zeros", "no pass", "1 pass", "model", "mnist")
SETS = ("mnist", "usps", "quickdraw", "fashion")
NAMES = {"mnist": "MNIST", "usps": "USPS", "quickdraw": "Quick, Draw!", "fashion": "Fashion-MNIST"}


@table("mnist-steps")
def mnist_steps() -> Table:
    """Plain Sinkhorn steps after each start, mean (p95), and the error of <C, P> after one."""
    report = read("mnist/evaluation")
    rows = [[eps, name, *_steps(start), _error(start, 1)] for eps, name, start in _starts(report)]
    return Table(["eps", "start", *_to(report), "error of <C, P> after 1 step"], rows, left=2)


@table("mnist-passes")
def mnist_passes() -> Table:
    """The model with 0, 1 and 2 steps inside the prediction, which are counted."""
    reports = [read(f"{name}/evaluation") for name in ("mnist-passes0", "mnist", "mnist-passes2")]
    models = [(r["passes"], eps, start) for r in reports for eps, name, start in _starts(r) if name == "model"]
    rows = [
        [eps, f"{n} step{'' if n == 1 else 's'}", *_steps(start, n), _l1(start), _error(start, 0)]
        for n, eps, start in sorted(models, key=lambda model: (-float(model[1]), model[0]))
    ]
    return Table(["eps", "inside the prediction", *_to(reports[0]), "L1 error", "error of <C, P>"], rows, left=2)


@table("mnist-times")
def mnist_times() -> Table:
    """The time of `solve` from the model over that from the best other start."""
    reports = [read(f"{name}/evaluation") for name in ("mnist", "mnist-batch64")]
    rows = [
        [f"{result['eps']:g}", str(report["batch"]), *map(times, time_ratios(result["starts"]))]
        for report in reports
        for result in report["results"]
    ]
    return Table(["eps", "batch", *(f"time {text}" for text in _to(reports[0], "to"))], rows, left=2)


def time_ratios(starts: dict[str, Any]) -> list[float]:
    """Return, for each tolerance, the median of the model's time over the other start's, the worse of these."""
    own = [timing["seconds_per_instance"] for timing in starts["model"]["time"]]
    ratios = [
        [
            median(mine / other for other, mine in zip(timing["seconds_per_instance"], seconds, strict=True))
            for timing, seconds in zip(start["time"], own, strict=True)
        ]
        for name, start in starts.items()
        if name != "model"
    ]
    return [max(column) for column in zip(*ratios, strict=True)]


def _to(report: dict[str, Any], words: str = "steps to") -> list[str]:
    return [f"{words} {tol:g}" for tol in report["tolerances"]]


def _starts(report: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(f"{r['eps']:g}", name, start) for r in report["results"] for name, start in r["starts"].items()]


def _steps(start: dict[str, Any], inside: int = 0) -> list[str]:
    rows = start["to_tolerance"]
    return [f"{row['mean_steps'] + inside:.1f} ({row['p95_steps'] + inside:.0f})" for row in rows]


def _l1(start: dict[str, Any]) -> str:
    return f"{mean(start['after'][0]['l1_error']):.2g}"


def _error(start: dict[str, Any], steps: int) -> str:
    errors = start["after"][steps]["relative_cost_error"]
    return percent(mean(errors), p95(errors))


@table("universal-quality")
def universal_quality() -> Table:
    """Error of <C, P>, mean (p95), and steps to one percent of it, by the steps inside the prediction."""
    head = ["images, eps", "zeros", "no step inside", "1 step", "2 steps: the model", "model of MNIST"]
    return Table(head, [_quality(row, STARTS) for row in read("universal-quality")["results"]])


def _quality(row: dict[str, Any], starts: Sequence[str]) -> list[str]:
    cells = [_quality_cell(row["summary"][start]) if start in row["summary"] else "" for start in starts]
    return [f"{row['data']}, {row['side']} x {row['side']}, {row['eps']:g}", *cells]


def _quality_cell(summary: dict[str, list[float]]) -> str:
    average, high, _ = summary["cost error"]
    return f"{percent(average, high)}, {summary['steps to 1% of the cost'][0]:.1f}"


@table("universal-newton")
def universal_newton() -> Table:
    """Newton steps to 1e-6, mean over the image sets."""
    measure = "Newton steps to 1e-06"
    cells: dict[tuple[int, float], list[dict[str, Any]]] = {}
    for row in read("universal-quality")["results"]:
        if measure in row["summary"]["model"]:
            cells.setdefault((row["side"], row["eps"]), []).append(row["summary"])
    starts = ("zeros", "Gaussian", "model")
    rows = [
        [f"{side} x {side}, {eps:g}", *(f"{mean(s[start][measure][0] for s in found):.1f}" for start in starts)]
        for (side, eps), found in cells.items()
    ]
    return Table(["images, eps", *starts], rows)


@table("universal-times")
def universal_times() -> Table:
    """Milliseconds of `solve` for one pair: the best cold start, then from the model, and the ratio."""
    found = read("universal-times")["rows"]
    columns = [(eps, batch) for eps in (0.01, 0.001) for batch in (1, 64)]
    cells = {(row["data"], row["eps"], row["batch"]): _time_cell(row) for row in found}
    words = {1: "one by one", 64: "in batches of 64"}
    head = ["64 x 64 images", *(f"eps = {eps:g}, {words[batch]}" for eps, batch in columns)]
    return Table(head, [[NAMES[name], *(cells[name, *column] for column in columns)] for name in SETS])


def _time_cell(row: dict[str, Any]) -> str:
    ms = row["ms"]
    return f"{min(ms['zeros'], ms['Gaussian']):.3g} to {ms['model']:.3g} ms, {row['ratio']:.2f}x"


@table("universal-worst")
def universal_worst() -> Table:
    """Pairs that need more than a step more from the model than from zeros."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in read("universal-worst")["rows"]:
        methods.setdefault(row["method"], []).append(row)
    pairs = read("universal-worst")["pairs"]
    rows = [
        [
            {"Sinkhorn": "accelerated Sinkhorn", "solve": "`solve`"}.get(method, method),
            str(pairs * len(found)),
            str(sum(row["pairs more than a step behind zeros"] for row in found)),
            str(max(row["most"] for row in found)),
        ]
        for method, found in methods.items()
    ]
    return Table(["method", "pairs", "more than a step more than from zeros", "most steps more"], rows)


@table("universal-ablation")
def universal_ablation() -> Table:
    """What it is trained by: error of <C, P>, and steps to one percent of it, after short trainings."""
    variants = read("universal-ablation")["variants"]
    rows = [
        [f"{name} ({v['processor_seconds']:.0f} s)", *(_quality_cell(v["results"][data]) for data in SETS)]
        for name, v in variants.items()
    ]
    steps = read("universal-ablation")["steps"]
    return Table([f"trained for {steps} steps by", *(NAMES[name] for name in SETS)], rows)
