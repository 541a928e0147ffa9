"""Tables of supply and demand on the sphere."""

from statistics import mean, median
from typing import Any

from benchmarks.tables.base import Table, p95, read, table

KINDS = {"uniform": "the distribution of the paper", "patterns": "demand never trained on"}
STAGES = {
    "network": "the network",
    "prediction": "and Newton between suppliers and groups: what `predict` returns",
    "paper's network": "the paper's network (`sphere-mlp`), as long trained",
}


@table("sphere-times")
def sphere_times() -> Table:
    """`solve`, the network included: median ms (p95), and mean steps (most)."""
    content = read("sphere/results")
    rows = [
        [f"{words}; {'cold' if start == 'cold' else 'from the model'}", *cells(content[kind], start)]
        for kind, words in KINDS.items()
        for start in ("cold", "model")
    ]
    return Table(["", "to 1e-3", "to 1e-6", "to 1e-9"], rows)


def cells(part: dict[str, Any], start: str) -> list[str]:
    runs = [part["solve"]["runs"][f"{start} {tol}"] for tol in ("0.001", "1e-06", "1e-09")]
    return [
        f"{r['median_ms']:.0f} ms ({r['p95_ms']:.0f}), {r['steps']:.1f} steps ({r['most_steps']})" for r in runs
    ]


@table("sphere-ratios")
def sphere_ratios() -> Table:
    """Time from the model over cold, median over the problems."""
    content = read("sphere/results")
    rows = [
        [words, *(f"{content[kind]['solve']['ratio'][tol]:.2f}x" for tol in ("0.001", "1e-06", "1e-09")),
         str(content[kind]["solve"]["most_steps_more"])]
        for kind, words in KINDS.items()
    ]  # fmt: skip
    return Table(["", "to 1e-3", "to 1e-6", "to 1e-9", "steps from the model less cold, at most"], rows)


@table("sphere-predictions")
def sphere_predictions() -> Table:
    """Errors of the bare prediction, mean (largest)."""
    content = read("sphere/results")
    rows = [
        [STAGES[stage], words, f"{q['error']:.3f} ({q['largest_error']:.3f})",
         f"{q['gap']:.1e} ({q['largest_gap']:.1e})"]
        for kind, words in KINDS.items()
        for stage, q in content[kind]["quality"].items()
    ]  # fmt: skip
    return Table(["prediction", "problems", "L1 marginal error", "relative dual gap"], rows, left=2)


@table("sphere-peers")
def sphere_peers() -> Table:
    """Other libraries on one problem, to 1e-3."""
    (peer, *_) = read("sphere/results")["peers"]
    own, cold = (mean([peer[when][start] for when in ("before", "after")]) for start in ("model", "cold"))
    rows = [
        ["metaot, from the model", f"{own:.3f}", "", "", "1"],
        ["metaot, cold", f"{cold:.3f}", "", "", f"{cold / own:.1f}"],
    ]
    for name, run in peer.items():
        if isinstance(run, dict) and "seconds" in run:
            error = f"{run['error']:.1e}" if "error" in run else ""
            steps = str(run.get("steps", ""))
            rows.append([name, f"{run['seconds']:.1f}", steps, error, f"{run['seconds'] / own:.0f}"])
    return Table(["", "seconds", "steps", "L1 error", "times as long as from the model"], rows)


@table("sphere-day")
def sphere_day() -> Table:
    """A rolling day: every problem is a little different from the last one."""
    names = {"cold": "cold", "previous": "from the solution before", "model": "from the model"}
    rows = [
        [names[start], f"{1e3 * median(run['seconds']):.0f} ms ({1e3 * p95(run['seconds']):.0f})",
         f"{mean(run['steps']):.1f} ({max(run['steps'])})"]
        for start, run in read("sphere/day").items()
    ]  # fmt: skip
    return Table(["start", "median (p95)", "steps, mean (most)"], rows)
