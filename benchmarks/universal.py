"""The numbers of the universal model: python -m benchmarks.universal [PART ...] [--tables].

quality: images that it never saw, at three resolutions and two temperatures; beside it zeros, the Gaussian start,
the same model with fewer passes inside, and on 28 x 28 the model of MNIST. times: `solve` to an L1 error of 1e-3
on 64 x 64 images against cold starts, one by one and in batches of 64. worst: pairs that need more steps from the
model than from zeros. ablation: short trainings of equal length, one thing changed in each. All of these without
a name. One thread; results go to benchmarks/results/universal-PART.json.
"""

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import metaot
from benchmarks.tables import images
from metaot.amortize import GaussianStart, Predictor
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import annotate, load, located, write_atomically
from metaot.data import Split
from metaot.data.images import ImageArchives
from metaot.evaluation.zero_shot import ZeroShot, table, zero_shot
from metaot.geometry.base import expand_eps
from metaot.objectives import scaled_dual_loss
from metaot.potentials import c_transform, centred, tilted
from metaot.problem import Problem
from metaot.recipes import RECIPES
from metaot.solvers import Sinkhorn, solve
from metaot.training import train

RESULTS = Path(__file__).parent / "results"
SEED = 20261122
SETS = ("mnist", "usps", "quickdraw", "fashion", "fashion:mnist", "quickdraw:usps")
CELLS = {
    (28, 1e-2): (200, 3000, 20),
    (64, 1e-2): (200, 300, 6),
    (128, 1e-2): (200, 40, 0),
    (28, 1e-3): (200, 1000, 20),
    (64, 1e-3): (20, 100, 6),
}
"""For each resolution and temperature: pairs, steps up to which is counted, and pairs that are given to Newton."""

TIMED = {1: 200, 64: 6}
"""Problems (or batches) that are timed for each size of a batch."""

TARGET_STEPS = 5
"""Sinkhorn steps from a prediction to its target."""
UNROLLED_STEPS = 2
"""Sinkhorn steps after which the error is measured."""


def bootstrapped_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return the mean square under a, in units of eps, of the change of f by a few Sinkhorn steps.

    As in UNOT (Geuter et al., arXiv 2411.01582), the potential after the steps is constant to the gradient.
    """
    with torch.no_grad():
        target = f
        for _ in range(TARGET_STEPS):
            target = c_transform(problem.T, c_transform(problem, target))
    off = centred(problem.a, f - target) / expand_eps(problem.eps, target)
    return (problem.a * off.square()).sum(-1)


def unrolled_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return KL(a | P 1) after a few Sinkhorn steps, through which the gradient flows."""
    g = c_transform(problem, f)
    for _ in range(UNROLLED_STEPS):
        f = c_transform(problem.T, g)
        g = c_transform(problem, f)
    excess = (f - c_transform(problem.T, g)) / expand_eps(problem.eps, f)
    return tilted(problem.a, excess).sum(-1) - 1 - (problem.a * excess).sum(-1)


VARIANTS: dict[str, dict[str, Any]] = {
    "dual value, two passes": {},
    "dual value, one pass": {"model_settings": {"passes": 1}},
    "dual value, no pass": {"model_settings": {"passes": 0}},
    "bootstrapped potentials": {"objective": bootstrapped_loss},
    "error after two steps": {"objective": unrolled_loss},
}
STEPS = 600
"""Of each training in the ablation."""


def problems(sets: ImageArchives, split: Split, data_dir: Path | None) -> Problem:
    """Draw pairs of a set."""
    return sets.split(split, data_dir).sample(torch.Generator().manual_seed(SEED))


def quality(data_dir: Path | None) -> dict[str, Any]:
    """Measure the shipped model on the test parts."""
    universal = load("universal")
    mnist = load("mnist")
    results = []
    for (side, eps), (count, most, newton) in CELLS.items():
        starts: dict[str, Predictor] = {
            "model": universal,
            "1 pass": with_passes(universal, 1),
            "no pass": with_passes(universal, 0),
        }
        if side == 28:
            starts["mnist"] = mnist
        for name in SETS:
            begin = perf_counter()
            problem = problems(ImageArchives(name, side, count, (eps, eps)), "test", data_dir)
            results.append(zero_shot(starts, problem, data=name, newton=newton, most=most))
            print(table(results[-1:]), f"\n{perf_counter() - begin:.0f} s", flush=True)
    names = ("pairs", "most", "newton")
    cells = {f"{side} {eps:g}": dict(zip(names, values, strict=True)) for (side, eps), values in CELLS.items()}
    rows = [{"data": r.data, "side": r.side, "eps": r.eps, "summary": r.summary()} for r in results]
    annotate(located("universal"), test={"data": "28 x 28, eps 0.01", **recorded(results)})
    return {"cells": cells, "results": rows}


def recorded(results: list[ZeroShot]) -> dict[str, Any]:
    """Return the figures of the card: mean, 95th percentile and worst of each set at the first resolution."""
    first = [r for r in results if (r.side, r.eps) == (28, 1e-2)]
    return {r.data: r.summary()["model"] for r in first}


def with_passes(universal: UniversalPotential, count: int) -> UniversalPotential:
    """Return the same with another number of Sinkhorn steps inside."""
    other = copy.deepcopy(universal)
    other.passes = count
    return other


def times(data_dir: Path | None) -> dict[str, Any]:
    """Time `solve` from the model and from cold, in turns, batch by batch."""
    starts = {"zeros": None, "Gaussian": GaussianStart(), "model": load("universal")}
    rows = []
    for name in SETS[:4]:
        for eps in (1e-2, 1e-3):
            for batch, count in TIMED.items():
                many = problems(ImageArchives(name, 64, batch * count, (eps, eps)), "test", data_dir)
                parts = [many[k] for k in range(count)] if batch == 1 else [*chunks(many, batch)]
                rows.append({"data": name, "eps": eps, "batch": batch, **timed(parts, batch, starts)})
                print(json.dumps(rows[-1]), flush=True)
    return {"rows": rows, "tol": 1e-3, "side": 64}


def chunks(many: Problem, batch: int) -> list[Problem]:
    """Cut a batch into smaller ones."""
    return [many[k : k + batch] for k in range(0, len(many.a), batch)]


def timed(parts: list[Problem], batch: int, starts: dict[str, Any]) -> dict[str, Any]:
    """Return milliseconds of an instance by start, medians, and the ratio to the better cold start.

    Each timed solve follows one of the part before from the same start, as in a stream of problems.
    """
    spent: dict[str, list[float]] = {name: [] for name in starts}
    steps: dict[str, list[float]] = {name: [] for name in starts}
    for before, part in zip([parts[-1], *parts], parts, strict=False):
        for name, start in starts.items():
            solve(before, init=start, tol=1e-3)
            begin = perf_counter()
            solution = solve(part, init=start, tol=1e-3)
            spent[name].append(1e3 * (perf_counter() - begin) / batch)
            steps[name].append(float(solution.steps.double().mean()))
    cold = [min(pair) for pair in zip(spent["zeros"], spent["Gaussian"], strict=True)]
    return {
        "ms": {name: round(median(values), 3) for name, values in spent.items()},
        "steps": {name: round(sum(values) / len(values), 2) for name, values in steps.items()},
        "ratio": round(median(m / c for m, c in zip(spent["model"], cold, strict=True)), 3),
        "more than a step behind zeros": sum(
            m > z + 1 for m, z in zip(steps["model"], steps["zeros"], strict=True)
        ),
    }


def worst(data_dir: Path | None) -> dict[str, Any]:
    """Count steps from zeros and from the model, pair by pair; those of `solve` are Sinkhorn's and Newton's."""
    model = load("universal")
    methods = {"Sinkhorn": Sinkhorn(), "solve": None, "plain Sinkhorn": Sinkhorn(accelerated=False)}
    rows = []
    for name in SETS[:4]:
        for eps in (1e-2, 1e-3):
            many = problems(ImageArchives(name, 28, 200, (eps, eps)), "test", data_dir)
            for method, solver in methods.items():
                zeros, warm = (
                    [int(solve(many[k], init=start, solver=solver, tol=1e-3).steps) for k in range(len(many.a))]
                    for start in (None, model)
                )
                behind = [w - z for z, w in zip(zeros, warm, strict=True) if w > z + 1]
                rows.append({
                    "data": name, "eps": eps, "method": method, "zeros": mean(zeros), "model": mean(warm),
                    "pairs more than a step behind zeros": len(behind), "most": max(behind, default=0),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
    return {"side": 28, "tol": 1e-3, "pairs": 200, "rows": rows}


def ablation(data_dir: Path | None) -> dict[str, Any]:
    """Train variants of the recipe for the same number of steps, and measure them on validation images."""
    rows = {}
    for name, changes in VARIANTS.items():
        shipped = RECIPES["universal"]()
        settings = {**shipped.model_settings, **changes.get("model_settings", {})}
        recipe = replace(
            shipped, steps=STEPS, validate_every=STEPS, save_every=STEPS,
            objective=changes.get("objective", scaled_dual_loss), model_settings=settings,
        )  # fmt: skip
        with TemporaryDirectory() as folder:
            begin = process_time()
            train(recipe, Path(folder), progress=False)
            seconds = process_time() - begin
            model = metaot.load(folder)
        sets = [ImageArchives(data, 28, 100, (1e-2, 1e-2)) for data in SETS[:4]]
        drawn = [problems(one, "validation", data_dir) for one in sets]
        measured = [
            zero_shot({"model": model}, problem, data=one.name, newton=0)
            for one, problem in zip(sets, drawn, strict=True)
        ]
        rows[name] = {
            "processor_seconds": round(seconds, 1),
            "results": {r.data: r.summary()["model"] for r in measured},
        }
        print(name, json.dumps(rows[name]), flush=True)
    return {"steps": STEPS, "variants": rows}


PARTS: dict[str, Callable[[Path | None], dict[str, Any]]] = {
    "quality": quality,
    "times": times,
    "worst": worst,
    "ablation": ablation,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without one")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tables", action="store_true", help="print the tables from the results")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"got the parts {sorted(unknown)}: there are {', '.join(PARTS)}")
    if options.tables:
        for make in (images.universal_quality, images.universal_times, images.universal_ablation):
            print(f"{make().markdown()}\n")
        return
    torch.set_num_threads(1)
    for name in options.parts or PARTS:
        content = {"torch": torch.__version__, "threads": 1, "seed": SEED, **PARTS[name](options.data_dir)}
        write(RESULTS / f"universal-{name}.json", json.dumps(content, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file as a whole."""
    write_atomically(path, lambda partial: partial.write_text(text))


if __name__ == "__main__":
    main()
