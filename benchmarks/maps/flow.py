"""Flow matching with pairs of four kinds: python -m benchmarks.maps flow [--quick].

Independent pairs, torchcfm's exact pairs of 256, `metaot.couple` of 4096, and `metaot.SemiDiscrete`, which sends
each noise to one of a whole data set: 20 000 points of the moons, or all digits of training; the same networks,
seeds and steps. Its fit, to a chi-squared error of 0.02 at an eps of 0.01 of the standard deviation of the
costs, counts as pairing. On 8 Gaussians to two moons, and on digits: noise to MNIST, with means over 2 x 2
pixels, 14 x 14. Curvature is the mean of |v - (end - start)|^2 along the paths over that of |end - start|^2.
Samples of few and many Euler steps are compared with real data by a debiased Sinkhorn divergence, eps 0.05 of
the mean cost: of digits over that of other real digits from the same ones. The picture, benchmarks/results/maps-
flow.png, has paths in the plane and digits after few steps, from the same starts.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import metaot
from benchmarks.maps.coupling import digits, eight_gaussians, moons, torchcfm_pairs
from metaot.losses import SinkhornLoss

RESULTS = Path(__file__).parents[1] / "results" / "maps-flow.json"
BATCH, FEW, MANY = 256, 4, 50
SIDE, SHOWN = 14, 16
"""Pixels of a digit along each axis, digits in a row of the picture."""
PLANE_STEPS, DIGIT_STEPS = 2000, 2500
"""Steps of training, of the field in the plane and of that of digits."""
LAST = 0.1
"""The time left for which a field still aims at the end of its path, and no faster after that."""
Pairs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
ERROR, SHARE, MOONS = 0.02, 0.01, 20_000
"""The error of the fit to a data set; its eps, in units of the standard deviation of the costs; and its size, of
moons."""


def independent(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    return x0, x1


def of_torchcfm(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    i, j = torchcfm_pairs(x0, x1)
    return x0[i], x1[j]


def ours(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    i, j = metaot.couple(x0, x1)
    return x0[i], x1[j]


def with_all(draw: Draw, data: Tensor) -> Pairs:
    """Fit a whole data set; return what sends noise to it."""
    generator = torch.Generator().manual_seed(3)
    eps = SHARE * float(metaot.Points(draw(2000, generator)[0], data[:2000]).std_cost())
    semi = metaot.SemiDiscrete(data, eps=eps).fit(lambda count, generator: draw(count, generator)[0], tol=ERROR)
    return lambda x0, x1: (x0, data[semi.assign(x0)])


KINDS: dict[str, tuple[int, Callable[[Draw, Tensor], Pairs]]] = {
    "independent": (BATCH, lambda draw, data: independent),
    "torchcfm, 256": (BATCH, lambda draw, data: of_torchcfm),
    "metaot, 4096": (4096, lambda draw, data: ours),
    "metaot, all data": (BATCH, with_all),
}


class Field(nn.Module):
    """A velocity field: it aims at a point that a residual network of vectors predicts from place and time."""

    def __init__(self, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim + 16, width), nn.Linear(width, dim)
        self.layers = nn.ModuleList(nn.Linear(width + 16, width) for _ in range(depth))
        self.register_buffer("frequencies", 2.0 ** torch.arange(8) * torch.pi / 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t * self.frequencies
        time = torch.cat([phase.sin(), phase.cos()], 1)
        h = self.first(torch.cat([x, time], 1))
        for layer in self.layers:
            h = h + layer(torch.cat([nn.functional.silu(nn.functional.layer_norm(h, h.shape[1:])), time], 1))
        end = self.last(nn.functional.silu(h))
        return (end - x) / (1 - t).clamp(min=LAST)


def trained(kind: str, draw: Draw, data: Tensor, field: Field, steps: int) -> Any:
    """Train a field; return it, with the seconds of pairing and of all."""
    pool, make = KINDS[kind]
    generator, begin = torch.Generator().manual_seed(0), perf_counter()
    pair = make(draw, data)
    pairing = perf_counter() - begin
    np.random.seed(0)  # noqa: NPY002, of torchcfm's sample
    optimiser = torch.optim.Adam(field.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    averaged = AveragedModel(field, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    left = 0
    for _ in range(steps):
        if left == 0:
            x0, x1 = draw(pool, generator)
            since = perf_counter()
            x0, x1 = pair(x0, x1)
            pairing += perf_counter() - since
            order, left = torch.randperm(pool, generator=generator), pool
        chosen = order[left - BATCH : left]
        left -= BATCH
        start, end = x0[chosen], x1[chosen]
        t = torch.rand(BATCH, 1, generator=generator)
        loss = (field(start + t * (end - start), t) - (end - start)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        averaged.update_parameters(field)
    return averaged.module.eval(), pairing, perf_counter() - begin


@torch.no_grad()
def path(field: Field, x: Tensor, steps: int) -> tuple[Tensor, float]:
    """Follow the field by Euler steps; return all points of the paths, and their curvature."""
    points = [x]
    for k in range(steps):
        points.append(points[-1] + field(points[-1], torch.full((len(x), 1), k / steps)) / steps)
    paths = torch.stack(points)
    line = paths[-1] - paths[0]
    bent = (steps * paths.diff(dim=0) - line).square().sum(2).mean()
    return paths, float(bent / line.square().sum(1).mean())


def row(kind: str, field: Field, draw: Draw, steps: int, points: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    *real, data = points
    name = "moons" if real[0].shape[1] == 2 else "digits"
    field, pairing, seconds = trained(kind, draw, data, field, steps)
    start = draw(1000, torch.Generator().manual_seed(7))[0]
    few, many = path(field, start, FEW)[0], path(field, start, MANY)
    eps = 0.05 * float(metaot.Points(*real).mean_cost())
    distance = SinkhornLoss(eps)
    floor = float(distance(*real)) if name == "digits" else 1.0
    return {
        "problem": name,
        "pairs": kind,
        "curvature": many[1],
        f"{FEW} Euler steps": float(distance(few[-1], real[0])) / floor,
        f"{MANY} Euler steps": float(distance(many[0][-1], real[0])) / floor,
        "seconds of pairing": pairing,
        "seconds of training": seconds,
        "paths": few,
    }


def planar(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return eight_gaussians(count, generator), moons(count, generator)


def picture(rows: list[dict[str, Any]]) -> None:
    """Draw paths in the plane and digits after few steps, a row for each kind of pairs."""
    figure = Figure(figsize=(9, 7.2), layout="constrained")
    axes = figure.subplots(len(KINDS), 2, width_ratios=[1, 3.4])
    axes[0, 0].set_title(f"8 Gaussians to moons, {FEW} Euler steps", fontsize=8)
    axes[0, 1].set_title(f"Noise to digits, {FEW} Euler steps", fontsize=8)
    for kind, line, plane, images in zip(KINDS, axes, rows[: len(KINDS)], rows[len(KINDS) :], strict=True):
        paths = plane["paths"][:, :300]
        lines = LineCollection(list(paths.transpose(0, 1).numpy()), colors="0.8", linewidths=0.4)
        line[0].add_collection(lines)
        line[0].scatter(*paths[0].T, s=2, color="tab:blue")
        line[0].scatter(*paths[-1].T, s=2, color="tab:red")
        line[0].set_aspect("equal")
        tiles = images["paths"][-1][: 2 * SHOWN].reshape(2, SHOWN, SIDE, SIDE).permute(0, 2, 1, 3)
        line[1].imshow(tiles.reshape(2 * SIDE, SHOWN * SIDE), cmap="gray", vmin=-1, vmax=1)
        line[0].set_ylabel(kind)
        for side in line:
            side.set_xticks([])
            side.set_yticks([])
    figure.savefig(RESULTS.with_suffix(".png"), dpi=130)


def main() -> None:
    warnings.simplefilter("ignore")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers of the plane are slower on several
    quick = "--quick" in sys.argv
    images = nn.functional.avg_pool2d(digits(60_000).view(-1, 1, 28, 28), 2).flatten(1)
    train, real = images[:50_000], (images[50_000:51_000], images[51_000:52_000])

    def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train), (count,), generator=generator)
        return torch.randn(count, SIDE**2, generator=generator), train[chosen]

    rows = []
    for kind in KINDS:
        torch.manual_seed(0)
        other = torch.Generator().manual_seed(8)
        plane = moons(1000, other), moons(1000, other)
        data = moons(MOONS, torch.Generator().manual_seed(9))
        rows.append(row(kind, Field(2, 64, 2), planar, 100 if quick else PLANE_STEPS, (*plane, data)))
    torch.set_num_threads(threads)
    for kind in KINDS:
        torch.manual_seed(0)
        rows.append(row(kind, Field(SIDE**2, 512, 4), drawn, 50 if quick else DIGIT_STEPS, (*real, train)))
    if not quick:
        picture(rows)
    for line in rows:
        del line["paths"]
    if not quick:
        RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")
    print(*rows[0], sep=" | ")
    for line in rows:
        print(*(f"{value:.3g}" if isinstance(value, float) else value for value in line.values()), sep=" | ")
