"""Barycenters of four images: beside POT, the 5 x 5 square between them, and starts from predictions.

POT on the same images: `convolutional_barycenter2d_debiased` is right if `stabThr` is below all that it is
added to (by default it is not), here with torch, which is quicker than numpy; its version in the log domain gives
the same and is slower; `barycenter_debiased` wants the matrix of all costs. It stops by its own criterion at the
same number: the sum over pixels of the standard deviation of the plans' marginals. What both minimise, the mean
divergence, is computed for both. One thread; the square also with two, which share its rows.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from metaot import Grid, Problem
from metaot.averages import Barycenter, barycenter, entropic_barycenter
from metaot.losses import sinkhorn_divergence

RESULT = Path(__file__).parents[1] / "results" / "losses-barycenter.json"
EPS, TOL, SIDES = 1e-3, 1e-6, (64, 256)
EQUAL = [0.25] * 4
AVERAGES = (barycenter, entropic_barycenter)


def shapes(side: int) -> Tensor:
    """A disc, a ring, a cross and two blocks."""
    t = torch.linspace(-0.5, 0.5, side, dtype=torch.float64)
    y, x = torch.meshgrid(t, t, indexing="ij")
    r = (x.square() + y.square()).sqrt()
    cross = ((x.abs() < 0.1) & (y.abs() < 0.4)) | ((y.abs() < 0.1) & (x.abs() < 0.4))
    blocks = ((x.sign() * y.sign() > 0) & ((x.abs() - 0.22).abs() < 0.13)) & ((y.abs() - 0.2).abs() < 0.15)
    images = torch.stack([r < 0.3, (r < 0.4) & (r > 0.25), cross, blocks]).double()
    return images / images.sum((1, 2), keepdim=True)


def square_of_weights(count: int = 5) -> Tensor:
    """The weights of four corners, bilinear: count^2 rows."""
    t = torch.linspace(0, 1, count, dtype=torch.float64)
    s, t = (part.flatten() for part in torch.meshgrid(t, t, indexing="ij"))
    return torch.stack([(1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t], -1)


def timed(call: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Return the median time of a call and what it returned; of several calls the first one does not count."""
    times = []
    for _ in range(runs + (runs > 1)):
        start = perf_counter()
        found = call()
        times.append(perf_counter() - start)
    return median(times[runs > 1 :]), found


def described(seconds: float, found: Barycenter) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 4),
        "steps": round(float(found.steps.double().mean()), 1),
        "error": float(found.error.max()),
        "self_error": float(found.self_error.max()),
        "converged": bool(found.converged.all()),
    }


def objective(images: Tensor, image: Tensor, grid: Grid) -> float:
    """Return the mean Sinkhorn divergence from a barycenter: what it should minimise."""
    a = images.flatten(1)
    return float(sinkhorn_divergence(Problem(a, image.flatten().expand_as(a), grid, EPS), tol=1e-7).mean())


def beside_pot(side: int) -> dict[str, Any]:
    """Time one barycenter, and POT's."""
    from ot.bregman import convolutional_barycenter2d_debiased as pot  # noqa: PLC0415, a peer

    images, grid = shapes(side), Grid(side, side)
    seconds, ours = timed(lambda: barycenter(images, EQUAL, grid, EPS, tol=TOL), 5)
    settings = {"stopThr": TOL, "numItermax": 5000, "log": True}
    theirs, (image, log) = timed(lambda: pot(images, EPS, stabThr=1e-300, **settings), 1)
    out = {
        "side": side,
        "ours": described(seconds, ours),
        "pot": {"seconds": round(theirs, 3), "steps": log["niter"] + 1, "error": float(log["err"][-1])},
        "ratio": round(seconds / theirs, 3),
        "l1_between_both": round(float((ours.image - image).abs().sum()), 3),
        "objective": {"ours": objective(images, ours.image, grid), "pot": objective(images, image, grid)},
    }
    if side == SIDES[0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = pot(images, EPS, stopThr=TOL, numItermax=500)
        out["l1_to_pot_by_default"] = round(float((ours.image - default).abs().sum()), 3)
    return out


def square(side: int, threads: int) -> dict[str, Any]:
    """Time the 25 barycenters of the square over one of equal weights, both with so many threads."""
    images, grid, rows = shapes(side), Grid(side, side), square_of_weights()
    out: dict[str, Any] = {"side": side, "threads": threads}
    torch.set_num_threads(threads)
    for average in AVERAGES:
        one, found = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL), 9)
        all_rows, many = timed(lambda average=average: average(images, rows, grid, EPS, tol=TOL), 5)
        out[average.__name__] = {
            "one": described(one, found),
            "square": described(all_rows, many),
            "ratio": round(all_rows / one, 2),
        }
    torch.set_num_threads(1)
    return out


def from_predictions(side: int) -> dict[str, Any]:
    """Time a start from the universal model over a cold one."""
    images, grid = shapes(side), Grid(side, side)
    out: dict[str, Any] = {"side": side}
    for average in AVERAGES:
        cold, first = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL), 5)
        warm, then = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL, init="universal"), 5)
        out[average.__name__] = {
            "cold": described(cold, first),
            "warm": described(warm, then),
            "ratio": round(warm / cold, 2),
            "steps_ratio": round(float(then.steps / first.steps), 2),
        }
    return out


def main() -> None:
    torch.set_num_threads(1)
    results = {
        "threads": 1,
        "eps": EPS,
        "tol": TOL,
        "beside_pot": [beside_pot(side) for side in SIDES],
        "square": [square(64, threads) for threads in (1, 2)],
        "from_predictions": [from_predictions(side) for side in SIDES],
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["beside_pot"]:
        values = ", ".join(f"{name} {value:.7f}" for name, value in row["objective"].items())
        print(f"{row['side']} x {row['side']}: over POT {row['ratio']} (floor 0.1); mean divergence {values}")
    for row in results["square"]:
        ratios = ", ".join(f"{average.__name__} {row[average.__name__]['ratio']}" for average in AVERAGES)
        print(f"{row['side']} x {row['side']}: 25 over one, {row['threads']} thread(s) (floor 6): {ratios}")
    for row in results["from_predictions"]:
        parts = [(average.__name__, row[average.__name__]) for average in AVERAGES]
        ratios = ", ".join(
            f"{name} {part['ratio']} of the time, {part['steps_ratio']} of steps" for name, part in parts
        )
        print(f"{row['side']} x {row['side']}: universal over cold (floor 0.7): {ratios}")


if __name__ == "__main__":
    main()
