"""The README's MNIST tables and pictures: python -m benchmarks.mnist [--data-dir DIR].

The shipped checkpoint on 500 pairs of test digits at eps 1e-2 and 1e-3, timed one by one and in batches of 64,
and with 0 and 2 Sinkhorn steps inside the prediction instead of 1. Results go to benchmarks/results/mnist*;
`python -m benchmarks.mnist --tables` prints the README's tables from the committed results.
"""

import json
import sys
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from metaot.cli import main

RESULTS = Path(__file__).parent / "results"
COMMON = ["evaluate", "checkpoints/mnist", "--eps", "1e-2", "1e-3", "--seed", "20261122", "--threads", "1"]
RUNS = {
    "mnist": ["--instances", "500", "--seconds", "8", "--record"],
    "mnist-batch64": ["--instances", "128", "--batch", "64", "--seconds", "8"],
    "mnist-passes0": ["--instances", "500", "--passes", "0", "--seconds", "1"],
    "mnist-passes2": ["--instances", "500", "--passes", "2", "--seconds", "1"],
}


def run(extra: list[str]) -> None:
    """Measure everything anew."""
    for name, options in RUNS.items():
        failed = main([*COMMON, *options, "--out", str(RESULTS / name), *extra])
        if failed:
            sys.exit(failed)


def tables() -> str:
    """Return the README's tables from the results: steps, the steps inside, times."""
    reports = {name: json.loads((RESULTS / name / "evaluation.json").read_text()) for name in RUNS}
    tolerances = [f"{tol:g}" for tol in reports["mnist"]["tolerances"]]
    machine = reports["mnist"]["machine"]
    return "\n".join(
        [
            *_head(["eps", "start", *(f"steps to {tol}" for tol in tolerances), "error of <C, P> after 1 step"]),
            *(
                _row([eps, name, *_steps(start), _error(start, 1)])
                for eps, name, start in _starts(reports["mnist"])
            ),
            "",
            *_head(
                ["eps", "inside the prediction", *(f"steps to {tol}" for tol in tolerances), "L1 error", "<C, P>"]
            ),
            *_passes_rows([reports["mnist-passes0"], reports["mnist"], reports["mnist-passes2"]]),
            "",
            *_head(["eps", "batch", *(f"speed-up to {tol}" for tol in tolerances)]),
            *_ratio_rows([reports["mnist"], reports["mnist-batch64"]]),
            "",
            f"torch {machine['torch']}, {machine['threads']} thread, {machine['platform']}",
        ]
    )


def _passes_rows(reports: list[dict[str, Any]]) -> list[str]:
    models = [(r["passes"], eps, start) for r in reports for eps, name, start in _starts(r) if name == "model"]
    return [
        _row(
            [
                eps,
                f"{passes} step{'' if passes == 1 else 's'}",
                *_steps(start, passes),
                _l1(start),
                _error(start, 0),
            ]
        )
        for passes, eps, start in sorted(models, key=lambda model: (-float(model[1]), model[0]))
    ]


def _starts(report: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (f"{result['eps']:g}", name, start)
        for result in report["results"]
        for name, start in result["starts"].items()
    ]


def _head(titles: list[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * 2 + "--:|" * (len(titles) - 2)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _steps(start: dict[str, Any], inside: int = 0) -> list[str]:
    rows = start["to_tolerance"]
    return [f"{row['mean_steps'] + inside:.1f} ({row['p95_steps'] + inside:.0f})" for row in rows]


def _l1(start: dict[str, Any]) -> str:
    return f"{mean(start['after'][0]['l1_error']):.2g}"


def _error(start: dict[str, Any], steps: int) -> str:
    errors = start["after"][steps]["relative_cost_error"]
    return f"{100 * mean(errors):.2g} % ({100 * quantiles(errors, n=20)[-1]:.2g} %)"


def _ratio_rows(reports: list[dict[str, Any]]) -> list[str]:
    return [
        _row([f"{result['eps']:g}", str(report["batch"]), *_ratios(result["starts"])])
        for report in reports
        for result in report["results"]
    ]


def _ratios(starts: dict[str, Any]) -> list[str]:
    """Return, for each tolerance, the median over batches of another start's time over the model's."""
    own = [timing["seconds_per_instance"] for timing in starts["model"]["time"]]
    ratios = [
        [
            median(other / mine for other, mine in zip(timing["seconds_per_instance"], seconds, strict=True))
            for timing, seconds in zip(start["time"], own, strict=True)
        ]
        for name, start in starts.items()
        if name != "model"
    ]
    return [f"{min(column):.2f}x" for column in zip(*ratios, strict=True)]


if __name__ == "__main__":
    if "--tables" not in sys.argv:
        run(sys.argv[1:])
    print(tables())
