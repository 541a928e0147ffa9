"""Pairs for flow matching beside the sampler of torchcfm: python -m benchmarks.maps coupling [--quick].

Both make indices of pairs from two clouds in float32 on a CPU, with all threads of torch, and the matrix of
distances counts on both sides. torchcfm's sampler is `ot.emd` as it stands there (one thread, at most 100000
pivots) and a sample of its plan with replacement; where torchcfm is not installed, its ten lines are below (MIT).
The share of the gain is the mean cost of independent pairs less the mean cost, over that of the exact pairs, which
`couple(eps=0)` finds in float64 and proves. Times are medians; runs of both sides alternate.

In many dimensions the product of the clouds takes nearly all of the time. Where noise is paired with data that are
near a subspace, both may be projected onto it: "projected" is `couple(x0 @ Q, coefficients)`, with the product of
the noise counted. Q, the principal directions of other images of the data set, and the coefficients x1 @ Q of the
data are made once for a data set, and not counted.
"""

import json
import math
import sys
import warnings
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor

import metaot
from metaot.data.images import read_idx_images
from metaot.data.paintings import SUFFIXES
from metaot.folders import data_folder, find_data
from metaot.pictures import pillow

RESULTS = Path(__file__).parents[1] / "results" / "maps-coupling.json"
SIZES, FLOORS = (256, 1024, 4096), (0.3, 0.2, 0.15)
RUNS = {256: (40, 20), 1024: (15, 7), 4096: (5, 2)}
"""Runs of ours and of theirs."""
DIRECTIONS = 640


def moons(count: int, generator: torch.Generator) -> Tensor:
    """Two half circles, as in flow matching's first example."""
    angle = math.pi * torch.rand(count, generator=generator)
    upper = torch.arange(count) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return 3 * (torch.stack([x, y], 1) + 0.1 * torch.randn(count, 2, generator=generator)) - 1


def eight_gaussians(count: int, generator: torch.Generator) -> Tensor:
    """Eight normal distributions on a circle of radius 5."""
    angle = math.pi / 4 * torch.randint(8, (count,), generator=generator)
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(count, 2, generator=generator)


def digits(count: int) -> Tensor:
    """Images of MNIST between -1 and 1."""
    images = read_idx_images(find_data("mnist/train-images-idx3-ubyte.gz", None, otherwise="metaot fetch mnist"))
    return images[:count].flatten(1) / 127.5 - 1


def crops(count: int, generator: torch.Generator) -> Tensor:
    """Random crops of paintings, 32 x 32 pixels of an image of 128, between -1 and 1."""
    files = sorted(file for file in (data_folder(None) / "paintings").iterdir() if file.suffix.lower() in SUFFIXES)
    images = [np.asarray(pillow()[0].open(file).convert("RGB").resize((128, 128))) for file in files]
    places = torch.randint(97, (count, 2), generator=generator).tolist()
    cut = [images[k % len(images)][r : r + 32, c : c + 32] for k, (r, c) in enumerate(places)]
    return torch.from_numpy(np.stack(cut)).flatten(1) / 127.5 - 1


def problem(name: str, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name == "8 Gaussians to moons, d = 2":
        return eight_gaussians(count, generator), moons(count, generator)
    data = digits(count) if "784" in name else crops(count, generator)
    return torch.randn(data.shape, generator=generator), data


PROBLEMS = ("8 Gaussians to moons, d = 2", "noise to MNIST, d = 784", "noise to paintings, d = 3072")


def torchcfm_pairs(x0: Tensor, x1: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs as torchcfm's OTPlanSampler("exact").sample_plan does."""
    try:
        from torchcfm.optimal_transport import OTPlanSampler  # noqa: PLC0415, a peer that may be missing
    except ImportError:
        a, b = ot.unif(len(x0)), ot.unif(len(x1))
        M = torch.cdist(x0, x1) ** 2
        p = ot.emd(a, b, M.detach().cpu().numpy(), numThreads=1)
        if np.abs(p.sum()) < 1e-8:
            p = np.ones_like(p) / p.size
        flat = p.flatten() / p.sum()
        chosen = np.random.choice(p.size, p=flat, size=len(x0), replace=True)  # noqa: NPY002, as torchcfm
        return np.divmod(chosen, p.shape[1])
    sampler = OTPlanSampler("exact")
    return sampler.sample_map(sampler.get_map(x0, x1), len(x0))


def directions(dim: int) -> Tensor | None:
    """Return principal directions of the data set, of other images than those that are paired; None for few."""
    if dim <= 4 * DIRECTIONS:
        return None
    generator = torch.Generator().manual_seed(1)
    return torch.pca_lowrank(crops(4096, generator), DIRECTIONS)[2]


def timed(call: Any) -> tuple[float, Any]:
    begin = perf_counter()
    found = call()
    return perf_counter() - begin, found


def row(name: str, count: int) -> dict[str, Any]:
    x0, x1 = problem(name, count)
    exact = metaot.couple(x0.double(), x1.double(), eps=0)
    gain = float(exact.independent_cost - exact.cost)
    ours_runs, their_runs = RUNS[count]
    ours, theirs = [], []
    metaot.couple(x0, x1)
    for k in range(ours_runs):
        seconds, found = timed(lambda: metaot.couple(x0, x1))
        ours.append(seconds)
        if k < their_runs:
            seconds, pairs = timed(lambda: torchcfm_pairs(x0, x1))
            theirs.append(seconds)
    Q, projected = directions(x0.shape[1]), []
    if Q is not None:
        coefficients = x1 @ Q
        for _ in range(ours_runs):
            seconds, found_projected = timed(lambda: metaot.couple(x0 @ Q, coefficients))
            projected.append(seconds)
    seconds_exact, found_exact = timed(lambda: metaot.couple(x0, x1, eps=0))

    def share(i: Any, j: Any) -> float:
        cost = (x0[i].double() - x1[j].double()).square().sum(1).mean()
        return float(exact.independent_cost - cost) / gain

    i, j = (torch.from_numpy(np.ascontiguousarray(side)) for side in pairs)
    return {
        "problem": name,
        "n": count,
        "ms": 1e3 * median(ours),
        "torchcfm, ms": 1e3 * median(theirs),
        "ratio": median(ours) / median(theirs),
        "share of the gain": share(*found),
        "torchcfm's share": share(i, j),
        "points that torchcfm loses": 1 - len(i.unique()) / count,
        "exact pairs, ms": 1e3 * seconds_exact,
        "ratio of exact pairs": seconds_exact / median(theirs),
        "share of exact pairs": share(*found_exact),
        "gap of the certificate, of the gain": float(found.cost - found.lower) / gain,
        "projected, ms": 1e3 * median(projected) if projected else None,
        "ratio, projected": median(projected) / median(theirs) if projected else None,
        "share, projected": share(*found_projected) if projected else None,
    }


def main() -> None:
    warnings.simplefilter("ignore")
    np.random.seed(0)  # noqa: NPY002, of torchcfm's sample
    sizes = SIZES[:2] if "--quick" in sys.argv else SIZES
    rows = [row(name, count) for count in sizes for name in PROBLEMS]
    if "--quick" not in sys.argv:
        RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")
    print(*rows[0], sep=" | ")
    for line in rows:
        print(*(f"{value:.3g}" if isinstance(value, float) else value for value in line.values()), sep=" | ")
    for count, floor in zip(sizes, FLOORS, strict=False):
        of_size = [line for line in rows if line["n"] == count]
        ratio = max(line["ratio"] for line in of_size)
        share = min(line["share of the gain"] for line in of_size)
        print(f"n = {count}: time over torchcfm's at most {ratio:.3f} (floor {floor}), share at least {share:.4f}")
