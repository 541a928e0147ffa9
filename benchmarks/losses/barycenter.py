"""Barycenters of four images: beside POT, the 5 x 5 square between them, and starts from predictions.

POT on the same images: `convolutional_barycenter2d_debiased` is right if `stabThr` is below all that it is
added to (by default it is not), here with torch, which is quicker than numpy; its version in the log domain gives
the same and is slower; `barycenter_debiased` wants the matrix of all costs. It stops by its own criterion at the
same number: the sum over pixels of the standard deviation of the plans' marginals. One thread.
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

from metaot import Grid
from metaot.averages import Barycenter, barycenter, entropic_barycenter

RESULT = Path(__file__).parents[1] / "results" / "losses-barycenter.json"
EPS, TOL, SIDES = 1e-3, 1e-6, (64, 256)
EQUAL = [0.25] * 4


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


def beside_pot(side: int) -> dict[str, Any]:
    """Time one barycenter, and POT's."""
    from ot.bregman import convolutional_barycenter2d_debiased as pot  # noqa: PLC0415, a peer

    images, grid = shapes(side), Grid(side, side)
    seconds, ours = timed(lambda: barycenter(images, EQUAL, grid, EPS, tol=TOL), 5)
    settings = {"stopThr": TOL, "numItermax": 5000, "log": True}
    theirs, (image, log) = timed(lambda: pot(images, EPS, stabThr=1e-300, **settings), 1)
    l1_by_default = None
    if side == SIDES[0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = pot(images, EPS, stopThr=TOL, numItermax=500)
        l1_by_default = round(float((ours.image - default).abs().sum()), 3)
    return {
        "side": side,
        "ours": described(seconds, ours),
        "pot": {"seconds": round(theirs, 3), "steps": log["niter"] + 1, "error": float(log["err"][-1])},
        "ratio": round(seconds / theirs, 3),
        "l1_between_both": round(float((ours.image - image).abs().sum()), 3),
        "l1_to_pot_by_default": l1_by_default,
    }


def square(side: int) -> dict[str, Any]:
    """Time the 25 barycenters of the square over one of equal weights."""
    images, grid, rows = shapes(side), Grid(side, side), square_of_weights()
    out: dict[str, Any] = {"side": side}
    for average in (barycenter, entropic_barycenter):
        one, found = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL), 5)
        start = found
        all_rows, many = timed(lambda average=average: average(images, rows, grid, EPS, tol=TOL), 3)
        warm, near = timed(lambda average=average, s=start: average(images, rows, grid, EPS, tol=TOL, init=s), 3)
        out[average.__name__] = {
            "one": described(one, found),
            "square": described(all_rows, many),
            "square from one": described(warm, near),
            "ratio": round(min(all_rows, warm + one) / one, 2),
        }
    return out


def from_predictions(side: int) -> dict[str, Any]:
    """Time a start from the universal model over a cold one."""
    images, grid = shapes(side), Grid(side, side)
    out: dict[str, Any] = {"side": side}
    for average in (barycenter, entropic_barycenter):
        cold, first = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL), 5)
        warm, then = timed(lambda average=average: average(images, EQUAL, grid, EPS, tol=TOL, init="universal"), 5)
        out[average.__name__] = {
            "cold": described(cold, first),
            "warm": described(warm, then),
            "ratio": round(warm / cold, 2),
        }
    return out


def main() -> None:
    torch.set_num_threads(1)
    results = {
        "threads": 1,
        "eps": EPS,
        "tol": TOL,
        "beside_pot": [beside_pot(side) for side in SIDES],
        "square": [square(64)],
        "from_predictions": [from_predictions(side) for side in (64, 128)],
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    for row in results["beside_pot"]:
        print(f"{row['side']:>4}: {row['ratio']:.3f} of POT's time; L1 between both {row['l1_between_both']}")
    for key, kinds in (("square", "25 over one"), ("from_predictions", "universal over cold")):
        for row in results[key]:
            ratios = ", ".join(f"{name} {row[name]['ratio']}" for name in ("barycenter", "entropic_barycenter"))
            print(f"{row['side']:>4}: {kinds}: {ratios}")


if __name__ == "__main__":
    main()
