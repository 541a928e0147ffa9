"""The README's MNIST tables and pictures: python -m benchmarks.mnist [--data-dir DIR].

The shipped checkpoint on 500 pairs of test digits at eps 1e-2 and 1e-3, timed one by one, and 128 pairs timed in
batches of 64. Results go to benchmarks/results/mnist and mnist-batch64; `python -m benchmarks.mnist --tables`
prints the README's tables from the committed results.
"""

import json
import sys
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from metaot.cli import main

RESULTS = Path(__file__).parent / "results"
COMMON = ["evaluate", "checkpoints/mnist", "--eps", "1e-2", "1e-3", "--seed", "20261122", "--threads", "1"]
SINGLE = [*COMMON, "--instances", "500", "--batch", "1", "--record", "--out", str(RESULTS / "mnist")]
BATCHED = [*COMMON, "--instances", "128", "--batch", "64", "--out", str(RESULTS / "mnist-batch64")]


def tables() -> str:
    """Return the README's tables: steps and errors, then times."""
    single = json.loads((RESULTS / "mnist" / "evaluation.json").read_text())
    batched = json.loads((RESULTS / "mnist-batch64" / "evaluation.json").read_text())
    passes = json.loads(Path("checkpoints/mnist/model.json").read_text())["model"]["config"]["passes"]
    tolerances = single["tolerances"]
    lines = [
        "| eps | start | "
        + " | ".join(f"steps to {tol:g}" for tol in tolerances)
        + " | error of <C, P> after 1 step |",
        "|---|---|" + "--:|" * (len(tolerances) + 1),
    ]
    for result in single["results"]:
        for name, start in result["starts"].items():
            lines.append(f"| {result['eps']:g} | {name} | {' | '.join(_steps(start))} | {_cost_error(start)} |")
    lines += [
        "",
        f"Mean (p95). The prediction itself contains {passes} Sinkhorn steps, which are not counted above.",
        "",
        "| eps | batch | start | " + " | ".join(f"ms to {tol:g}" for tol in tolerances) + " |",
        "|---|---|---|" + "--:|" * len(tolerances),
    ]
    for report in (single, batched):
        for result in report["results"]:
            for name, start in result["starts"].items():
                cells = " | ".join(_time(timing) for timing in start["time"])
                lines.append(f"| {result['eps']:g} | {report['batch']} | {name} | {cells} |")
    machine = single["machine"]
    lines += ["", f"Medians for one instance, network included; torch {machine['torch']}, one thread."]
    return "\n".join(lines)


def _steps(start: dict[str, Any]) -> list[str]:
    return [f"{row['mean_steps']:.1f} ({row['p95_steps']:.0f})" for row in start["to_tolerance"]]


def _cost_error(start: dict[str, Any]) -> str:
    errors = start["after"][1]["relative_cost_error"]
    return f"{100 * mean(errors):.2g} % ({100 * quantiles(errors, n=20)[-1]:.2g} %)"


def _time(timing: dict[str, Any]) -> str:
    return f"{'' if timing['converged'] else '>'}{1e3 * timing['median_seconds']:.3g}"


if __name__ == "__main__":
    if "--tables" not in sys.argv:
        failed = main([*SINGLE, *sys.argv[1:]]) or main([*BATCHED, *sys.argv[1:]])
        if failed:
            sys.exit(failed)
    print(tables())
