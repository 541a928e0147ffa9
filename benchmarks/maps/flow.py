"""Flow matching with pairs of three kinds: python -m benchmarks.maps flow [--quick].

Independent pairs, torchcfm's exact pairs of 256, and `metaot.couple` of 4096; the same networks, seeds and steps
of training. On 8 Gaussians to two moons, and on digits: noise to MNIST, 28 x 28. Curvature is the mean of
|v - (end - start)|^2 along the paths over that of |end - start|^2. Samples of few and of many Euler steps are
compared with real data by a debiased Sinkhorn divergence, eps 0.05 of the mean cost: of digits over that of other
real digits from the same ones. The picture, benchmarks/results/maps-flow.png, has digits after few steps, from the
same noise.
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
from torch import Tensor, nn

import metaot
from benchmarks.maps.coupling import digits, eight_gaussians, moons, torchcfm_pairs
from metaot.losses import SinkhornLoss
from metaot.pictures import pillow

RESULTS = Path(__file__).parents[1] / "results" / "maps-flow.json"
BATCH, FEW, MANY = 256, 4, 50
Pairs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def independent(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    return x0, x1


def of_torchcfm(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    i, j = torchcfm_pairs(x0, x1)
    return x0[i], x1[j]


def ours(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    i, j = metaot.couple(x0, x1)
    return x0[i], x1[j]


KINDS: dict[str, tuple[int, Pairs]] = {
    "independent": (BATCH, independent),
    "torchcfm, 256": (BATCH, of_torchcfm),
    "metaot, 4096": (4096, ours),
}


class Field(nn.Module):
    """A velocity field of place and time: a residual network of vectors."""

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
            h = h + layer(torch.cat([nn.functional.silu(h), time], 1))
        return self.last(nn.functional.silu(h))


def trained(
    kind: str, draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]], field: Field, steps: int
) -> Any:
    """Train a field; return it, with the seconds of pairing and of all."""
    pool, pair = KINDS[kind]
    generator, begin, pairing = torch.Generator().manual_seed(0), perf_counter(), 0.0
    np.random.seed(0)  # noqa: NPY002, of torchcfm's sample
    optimiser = torch.optim.Adam(field.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
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
    return field.eval(), pairing, perf_counter() - begin


@torch.no_grad()
def path(field: Field, x: Tensor, steps: int) -> tuple[Tensor, float]:
    """Follow the field by Euler steps; return where it ends, and the curvature of the paths."""
    start, velocities = x, []
    for k in range(steps):
        velocities.append(field(x, torch.full((len(x), 1), k / steps)))
        x = x + velocities[-1] / steps
    line = x - start
    bent = torch.stack([(v - line).square().sum(1).mean() for v in velocities]).mean()
    return x, float(bent / line.square().sum(1).mean())


def row(kind: str, field: Field, draw: Any, steps: int, real: tuple[Tensor, Tensor]) -> dict[str, Any]:
    name = "digits" if real[0].shape[1] == 784 else "moons"
    field, pairing, seconds = trained(kind, draw, field, steps)
    start = draw(1000, torch.Generator().manual_seed(7))[0]
    few, many = path(field, start, FEW)[0], path(field, start, MANY)
    eps = 0.05 * float(metaot.Points(*real).mean_cost())
    distance = SinkhornLoss(eps)
    floor = float(distance(*real)) if name == "digits" else 1.0
    return {
        "problem": name,
        "pairs": kind,
        "curvature": many[1],
        f"{FEW} Euler steps": float(distance(few, real[0])) / floor,
        f"{MANY} Euler steps": float(distance(many[0], real[0])) / floor,
        "seconds of pairing": pairing,
        "seconds of training": seconds,
        "samples": few,
    }


def planar(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return eight_gaussians(count, generator), moons(count, generator)


def picture(rows: list[dict[str, Any]]) -> None:
    """Write digits of all kinds, one row of the picture for each."""
    lines = [torch.cat(list(row["samples"][:20].reshape(20, 28, 28)), 1) for row in rows]
    pixels = ((torch.cat(lines).clamp(-1, 1) + 1) * 127.5).byte()
    pillow()[0].fromarray(pixels.numpy()).resize((1120, 56 * len(lines))).save(RESULTS.with_suffix(".png"))


def main() -> None:
    warnings.simplefilter("ignore")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers of the plane are slower on several
    quick = "--quick" in sys.argv
    images = digits(60_000)
    train, real = images[:50_000], (images[50_000:51_000], images[51_000:52_000])

    def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train), (count,), generator=generator)
        return torch.randn(count, 784, generator=generator), train[chosen]

    rows = []
    for kind in KINDS:
        torch.manual_seed(0)
        other = torch.Generator().manual_seed(8)
        plane = moons(1000, other), moons(1000, other)
        rows.append(row(kind, Field(2, 64, 2), planar, 100 if quick else 2000, plane))
    torch.set_num_threads(threads)
    for kind in KINDS:
        torch.manual_seed(0)
        rows.append(row(kind, Field(784, 512, 3), drawn, 50 if quick else 2000, real))
    if not quick:
        picture(rows[len(KINDS) :])
    for line in rows:
        del line["samples"]
    if not quick:
        RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")
    print(*rows[0], sep=" | ")
    for line in rows:
        print(*(f"{value:.3g}" if isinstance(value, float) else value for value in line.values()), sep=" | ")
