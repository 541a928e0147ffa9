"""The recipe `problems` on the README's own example: python -m benchmarks.own_problems [--folder DIR].

5000 days of supply at 50 fixed places and demand at 200, written, trained and measured by the commands of the
README; DIR/runs/problems is trained unless it is there. On the test split, plain Sinkhorn steps from zeros, from
the potential of the mean problem, from the mean of solved training problems, from decreasing eps (its steps are
named beside it), from the network alone and after 1, 2 and 3 refinement steps, each of which contains a Sinkhorn
step; no start is replaced. Untrained, a refinement step is Newton's at the mean problem: a start without learning.
Times are of `solve`, one thread, cold and from the model. Results go to benchmarks/results/own-problems.json;
`--tables` prints the tables from them.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import metaot
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import annotate, load, read_card, write_atomically
from metaot.cli import main
from metaot.data import ProblemFolder, write_problems
from metaot.evaluation.protocol import error_curve
from metaot.models import single
from metaot.potentials import DualPotentials, centred, marginal_error
from metaot.problem import Problem
from metaot.solvers.refine import worse_than_zeros

RESULTS = Path(__file__).parent / "results" / "own-problems.json"
COMMAND = ["train", "problems", "--set", "data.path=days", "--quiet"]
EPS, SEED = 0.05, 20261129
TOLERANCES = (1e-2, 1e-3, 1e-4)
TIMED = 100
"""Test problems that are timed, one by one."""
WARMER = (8.0, 4.0, 2.0)
"""Temperatures of decreasing eps, in units of the problem's; at each of them Sinkhorn goes to an error of 0.05."""
Starts = dict[str, tuple[Tensor, Tensor]]
"""f by name, and the Sinkhorn steps that were made for it."""


def written(folder: Path) -> None:
    """Write the problems of the README."""
    rng = np.random.default_rng(0)
    suppliers, customers = rng.random((50, 2)), rng.random((200, 2))
    supply = rng.dirichlet(np.ones(50), 5000)
    demand = rng.dirichlet(np.ones(200), 5000)
    write_problems(folder, supply, demand, x=suppliers, y=customers, cost="euclidean", eps=EPS)


def trained(folder: Path) -> Path:
    """Return the run, trained by the README's command if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        if not Path("days").exists():
            written(Path("days"))
        if not Path("runs/problems/model.json").exists():
            begun, used = perf_counter(), process_time()
            if main(COMMAND):
                raise SystemExit(2)
            took = {"seconds": round(perf_counter() - begun, 1), "processor": round(process_time() - used, 1)}
            annotate(Path("runs/problems"), whole_command=took)
    return folder / "runs" / "problems"


def starts_of(problem: Problem, training: Problem, models: dict[str, AmortizedPotential]) -> Starts:
    """Return all starts for the test problems."""
    none = torch.zeros(len(problem.a), dtype=torch.int64)
    exact = metaot.solve(training, tol=1e-6).potentials
    mean = centred(training.a, exact.f).mean(0).expand_as(problem.a)
    a, b = (side.mean(0, keepdim=True) for side in (training.a, training.b))
    of_mean = metaot.solve(Problem(a, b, problem.geometry, EPS), tol=1e-9).potentials.f.expand_as(problem.a)
    f, steps = torch.zeros_like(problem.a), none
    for factor in WARMER:
        warmer = Problem(problem.a, problem.b, problem.geometry, factor * EPS)
        start = DualPotentials.from_f(warmer, f)
        found = metaot.solve(warmer, init=start, solver=metaot.Sinkhorn(accelerated=False), tol=0.05)
        f, steps = found.potentials.f, steps + found.steps
    starts = {
        "zeros": (torch.zeros_like(problem.a), none),
        "mean problem": (of_mean, none),
        "mean potential": (mean, none),
        "decreasing eps": (f, steps),
    }
    for name, model in models.items():
        for passes in (0, 1, 2, 3):
            model.passes = passes
            starts[f"{name}, {passes} inside"] = (model.predict(problem).f, none + passes)
    return starts


def untrained(model: AmortizedPotential) -> AmortizedPotential:
    """Return the same network before training: the mean problem, and Newton's step there."""
    network: Any = model.model
    torch.manual_seed(0)
    fresh = single(type(network)(**network.config))
    fresh.load_state_dict({**fresh.state_dict(), **dict(network.named_buffers())})
    return AmortizedPotential(fresh.eval().requires_grad_(False), model.geometry, model.eps)


def counted(problem: Problem, starts: Starts) -> dict[str, Any]:
    """Count plain Sinkhorn steps from each start as it is."""
    rows = {}
    for name, (f, before) in starts.items():
        guess = DualPotentials.from_f(problem, f)
        error = marginal_error(problem, guess)
        curve = error_curve(problem, f, tol=min(TOLERANCES), max_steps=2000)
        steps = {tol: (curve <= tol).to(torch.int64).argmax(0).double() for tol in TOLERANCES}
        rows[name] = {
            "made before": round(float(before.double().mean()), 2),
            "L1 error": float(f"{float(error.mean()):.4g}"),
            "replaced by solve": int(worse_than_zeros(problem, guess, error).sum()),
            "steps": {f"{tol:g}": described(found) for tol, found in steps.items()},
        }
    return rows


def described(values: Tensor) -> dict[str, float]:
    """Return mean and p95."""
    return {"mean": round(float(values.mean()), 2), "p95": round(float(values.quantile(0.95)), 2)}


def timed(problem: Problem, model: AmortizedPotential, batch: int) -> dict[str, Any]:
    """Time `solve` cold and from the model, in turns, on batches; its own steps, mean of all problems."""
    ways: dict[str, Callable[[Problem, float], metaot.Solution]] = {
        "cold": lambda part, tol: metaot.solve(part, tol=tol),
        "model": lambda part, tol: metaot.solve(part, init=model, tol=tol),
    }
    content = {}
    for tol in TOLERANCES:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        steps: dict[str, list[Tensor]] = {name: [] for name in ways}
        parts = [problem[k : k + batch] for k in range(0, max(TIMED, 5 * batch), batch)]
        for part in (parts[0], *parts):
            for name, way in ways.items():
                begin = perf_counter()
                solution = way(part, tol)
                seconds[name].append((perf_counter() - begin) / batch)
                steps[name].append(solution.steps.double())
        ratios = [cold / warm for cold, warm in zip(seconds["cold"][1:], seconds["model"][1:], strict=True)]
        content[f"{tol:g}"] = {
            "accelerated steps": {
                name: round(float(torch.cat(found[1:]).mean()), 2) for name, found in steps.items()
            },
            "milliseconds": {name: round(1e3 * median(times[1:]), 4) for name, times in seconds.items()},
            "cold over model": {"median": round(median(ratios), 3), "p5": round(quantiles(ratios, n=20)[0], 3)},
        }
    return content


def measure(run: Path) -> dict[str, Any]:
    """Return all numbers."""
    with chdir(run.parents[1]):
        source, model, card = ProblemFolder("days"), load("runs/problems"), read_card(Path("runs/problems"))
        test, train = source.split("test"), source.split("train")
    passes = model.passes
    problem = Problem(test.a, test.b, test.geometry, EPS)
    training = replace(train, batch=1000).sample(torch.Generator().manual_seed(SEED))
    starts = starts_of(problem, training, {"untrained": untrained(model), "model": model})
    model.passes = passes
    return {
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "load": [round(load, 1) for load in os.getloadavg()],
        },
        "command": card["command"],
        "whole_command": card["whole_command"],
        "training_seconds": card["training_seconds"],
        "training_threads": card["machine"]["threads"],
        "steps_of_training": card["step"],
        "parameters": card["parameters"],
        "passes": passes,
        "test_problems": len(problem.a),
        "starts": counted(problem, starts),
        "solve": {f"batch {batch}": timed(problem, model, batch) for batch in (1, 64)},
    }


def tables(results: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    tolerances = [f"{tol:g}" for tol in TOLERANCES]
    lines = [
        f"| start | steps before | L1 error | {' | '.join(f'to {tol}' for tol in tolerances)} | all, to 0.001 |",
        "|---|" + "--:|" * (len(tolerances) + 3),
    ]
    for name, row in results["starts"].items():
        cells = [f"{row['steps'][tol]['mean']:.1f} ({row['steps'][tol]['p95']:.0f})" for tol in tolerances]
        whole = row["made before"] + row["steps"]["0.001"]["mean"]
        lines.append(
            f"| {name} | {row['made before']:g} | {row['L1 error']:.2g} | {' | '.join(cells)} | {whole:.1f} |"
        )
    lines += ["", "| `solve` | " + " | ".join(f"to {tol}" for tol in tolerances) + " |"]
    lines.append("|---|" + "--:|" * len(tolerances))
    for batch, rows in results["solve"].items():
        for name in ("cold", "model"):
            cells = [f"{rows[tol]['accelerated steps'][name]:.1f}" for tol in tolerances]
            lines.append(f"| {batch}, {name}: its own steps | {' | '.join(cells)} |")
        cells = [f"{rows[tol]['cold over model']['median']:.2f}x" for tol in tolerances]
        lines.append(f"| {batch}: time cold over model | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/own-problems"))
    parser.add_argument("--tables", action="store_true", help="print the tables of the committed results")
    options = parser.parse_args()
    if not options.tables:
        run = trained(options.folder)
        torch.set_num_threads(1)
        content = json.dumps(measure(run), indent=1) + "\n"
        write_atomically(RESULTS, lambda partial: partial.write_text(content))
    print(tables(json.loads(RESULTS.read_text())))
