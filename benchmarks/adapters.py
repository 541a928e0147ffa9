"""What predictions save in other libraries: python -m benchmarks.adapters [--data-dir DIR].

Steps and times of POT and OTT from nothing and from the shipped MNIST model, on MNIST test pairs, each library
on one thread and stopped in its own way; and of POT's exact solver on these, and on clouds of 1000 points that
are drawn from pairs of digits. Times of predictions and conversions count. A library that is not installed is left
out. Results go to benchmarks/results/adapters.json.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import metaot
from metaot.adapters import pot
from metaot.amortize import AmortizedPotential
from metaot.data import Mnist
from metaot.potentials import marginal_error

RESULTS = Path(__file__).parent / "results" / "adapters.json"
PAIRS, CLOUDS, POINTS, SIDE = 50, 50, 1000, 28


def timed(solve: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least of a few times in milliseconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = solve()
        best = min(best, 1e3 * (time.perf_counter() - begin))
    return best, result


def compared(
    problems: list[metaot.Problem], run: Callable[..., Any], model: Any, repeats: int = 1
) -> dict[str, Any]:
    """Solve each problem from nothing and from the model, in turn; the model is asked in the time that counts."""
    rows = []
    run(problems[0], None), run(problems[0], model)  # what is compiled and kept
    for problem in problems:
        cold_ms, cold = timed(lambda problem=problem: run(problem, None), repeats)
        warm_ms, warm = timed(lambda problem=problem: run(problem, model), repeats)
        rows.append((cold_ms, warm_ms, cold, warm))
    report = {
        "instances": len(rows),
        "cold_ms": round(median(row[0] for row in rows), 3),
        "warm_ms": round(median(row[1] for row in rows), 3),
        "speed_up": round(median(cold / warm for cold, warm, *_ in rows), 2),
    }
    if hasattr(rows[0][2], "steps"):
        for name, place in (("cold", 2), ("warm", 3)):
            report[f"{name}_steps"] = round(float(np.mean([float(row[place].steps) for row in rows])), 1)
            report[f"{name}_converged"] = sum(bool(row[place].converged) for row in rows)
    return report


def mnist_pairs(eps: float, data_dir: Path | None) -> list[metaot.Problem]:
    batch = Mnist(batch=PAIRS, eps=(eps, eps)).split("test", data_dir).sample(torch.Generator().manual_seed(7))
    return [batch[i] for i in range(PAIRS)]


def entropic(model: AmortizedPotential, data_dir: Path | None) -> list[dict[str, Any]]:
    """Measure every entry for entropic problems."""
    rows = []
    for eps in (1e-2, 1e-3):
        problems = mnist_pairs(eps, data_dir)
        for tol in (1e-2, 1e-3):
            for name, run in _entries(eps, tol).items():
                report = {"entry": name, "eps": eps, "tol": tol, **compared(problems, run, model)}
                print(report, flush=True)
                rows.append(report)
    return rows


def _entries(eps: float, tol: float) -> dict[str, Callable[..., Any]]:
    def of_pot(method: str, **options: Any) -> Callable[..., Any]:
        return lambda problem, init: pot.sinkhorn(problem, init=init, method=method, tol=tol, **options)

    entries = {
        "POT sinkhorn_log": of_pot("sinkhorn_log"),
        "POT sinkhorn_stabilized": of_pot("sinkhorn_stabilized"),
    }
    if eps >= 1e-2:  # below, its kernel is zero
        entries["POT sinkhorn"] = of_pot("sinkhorn")
    try:
        import jax  # noqa: PLC0415

        from metaot.adapters import ott  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)
    except ImportError:
        return entries
    return entries | {"OTT Sinkhorn": lambda problem, init: ott.sinkhorn(problem, init=init, tol=tol)}


def exact(problems: list[metaot.Problem], model: Any) -> dict[str, Any]:
    """Measure POT's network simplex, its pivots on a few, and how far costs are apart."""
    report = compared(problems, lambda problem, init: pot.emd2(problem, init=init), model, repeats=2)
    costs = [float(pot.emd2(p, init=model) / pot.emd2(p) - 1) for p in problems[:10]]
    pivots = [median(_pivots(problem, init) for problem in problems[:3]) for init in (None, model)]
    return {
        **report,
        "cold_pivots": pivots[0],
        "warm_pivots": pivots[1],
        "largest_relative_difference": float(f"{max(map(abs, costs)):.1e}"),
    }


def _pivots(problem: metaot.Problem, init: Any) -> int:
    """Return the number of pivots, by bisection on POT's limit."""
    guess, low, high = None if init is None else init.predict(problem), 0, 1_000_000
    while low < high:
        middle = (low + high) // 2
        try:
            pot.emd2(problem, init=guess, max_pivots=middle + 1)
            high = middle
        except RuntimeError:
            low = middle + 1
    return low


def clouds(eps: float, data_dir: Path | None) -> list[metaot.Problem]:
    """Draw clouds of 1000 points of equal weight from pairs of digits: a pixel by its ink, a place in it."""
    generator = torch.Generator().manual_seed(8)
    pairs = mnist_pairs(eps, data_dir)[:CLOUDS]
    weights = torch.full((POINTS,), 1 / POINTS, dtype=torch.float64)

    def drawn(w: torch.Tensor) -> torch.Tensor:
        pixel = torch.multinomial(w, POINTS, replacement=True, generator=generator)
        place = torch.stack(torch.unravel_index(pixel, (SIDE, SIDE)), -1)
        return (place + torch.rand(POINTS, 2, generator=generator, dtype=torch.float64) - 0.5) / (SIDE - 1)

    return [metaot.Problem(weights, weights, metaot.Points(drawn(p.a), drawn(p.b)), eps) for p in pairs]


class OnPixels:
    """The model of images for clouds in the unit square: a potential is a function on the whole space.

    Points are counted in the pixels around them, f is interpolated at the points, and g is the best for f.
    """

    def __init__(self, model: AmortizedPotential) -> None:
        self.model = model

    def predict(self, problem: metaot.Problem) -> metaot.DualPotentials:
        x, y = problem.geometry.points
        (corners, shares), (others, parts) = _around(x), _around(y)
        a, b = torch.zeros(2, SIDE * SIDE, dtype=torch.float64)
        a.index_add_(0, corners.flatten(), (shares * problem.a[:, None]).flatten())
        b.index_add_(0, others.flatten(), (parts * problem.b[:, None]).flatten())
        image = metaot.Problem(a, b, self.model.geometry, problem.eps)
        f = (self.model.predict(image).f[corners] * shares).sum(1)
        return metaot.DualPotentials.from_f(problem, f)


def _around(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the four pixels around each point, and their shares in bilinear interpolation."""
    place = z.clamp(0, 1) * (SIDE - 1)
    low = place.floor().clamp(max=SIDE - 2).long()
    share = place - low
    steps = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1)])
    corners = low[:, None] + steps
    shares = torch.where(steps == 1, share[:, None], 1 - share[:, None]).prod(-1)
    return corners[..., 0] * SIDE + corners[..., 1], shares


class Refined:
    """A predictor whose guess is refined by `metaot.solve` to an L1 error, in the time that counts."""

    def __init__(self, model: Any, tol: float) -> None:
        self.model, self.tol = model, tol

    def predict(self, problem: metaot.Problem) -> metaot.DualPotentials:
        return metaot.solve(problem, init=self.model, tol=self.tol).potentials


def exact_rows(model: AmortizedPotential, data_dir: Path | None) -> list[dict[str, Any]]:
    """Measure the exact solver on both kinds of problems, from predictions and from refined ones."""
    rows = []
    for kind, eps, problems, start in (
        ("MNIST", 1e-3, mnist_pairs(1e-3, data_dir), model),
        (f"{POINTS} points", 1e-3, clouds(1e-3, data_dir), OnPixels(model)),
    ):
        error = median(float(marginal_error(problem, start.predict(problem))) for problem in problems)
        for name, init in (("prediction", start), ("prediction, refined to 0.01", Refined(start, 0.01))):
            facts = {"problems": kind, "start": name, "eps": eps, "error_of_prediction": round(error, 4)}
            rows.append({**facts, **exact(problems, init)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Other libraries' solvers, cold and from predictions.")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")
    parser.add_argument("--only", choices=["exact", "entropic"], help="one half; the other one's results stay")
    parser.add_argument("--cloud-eps", type=float, default=2e-3)
    parser.add_argument(
        "--train-seconds", type=int, default=90, help="about how long the model of clouds is trained"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = metaot.load("checkpoints/mnist")
    results = json.loads(RESULTS.read_text()) if options.only and RESULTS.exists() else {"threads": 1}
    if options.only != "entropic":
        results["exact"] = exact_rows(model, options.data_dir)
    if options.only != "exact":
        results["entropic"] = entropic(model, options.data_dir)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
