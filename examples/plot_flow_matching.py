"""
Flow matching: which noise goes to which sample
===============================================

Flow matching trains a velocity field on straight lines between noise and data. Between independent pairs the
lines cross, so the paths of the trained field are curved, and need many steps to follow. Pairs at nearly the least
cost hardly cross, the less the larger the batch that they are chosen from. ``metaot.couple`` pairs thousands of
points in the time in which exact solvers pair some hundred.
"""

import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import metaot
from metaot.losses import SinkhornLoss

torch.manual_seed(0)
torch.set_num_threads(1)  # layers this small are slower on several


def gaussians(count: int) -> Tensor:
    """Eight normal distributions on a circle."""
    angle = math.pi / 4 * torch.randint(8, (count,))
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(count, 2)


def moons(count: int) -> Tensor:
    """Two half circles."""
    angle, upper = math.pi * torch.rand(count), torch.rand(count) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return 3 * (torch.stack([x, y], 1) + 0.1 * torch.randn(count, 2)) - 1


# %%
# A pool of pairs is made of ``pool`` points at once, and then used up in batches of 256. The field is a small
# network of place and time.


def trained(
    pool: int, pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], steps: int = 1200
) -> torch.nn.Module:
    """Train a velocity field on the lines between pairs."""
    torch.manual_seed(1)
    layers = [torch.nn.Linear(3, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU()]
    field = torch.nn.Sequential(*layers, torch.nn.Linear(128, 2))
    optimiser = torch.optim.Adam(field.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x0 = x1 = torch.empty(0, 2)
    for _ in range(steps):
        if len(x0) == 0:
            x0, x1 = pair(gaussians(pool), moons(pool))
            order = torch.randperm(pool)
            x0, x1 = x0[order], x1[order]
        start, end, x0, x1 = x0[:256], x1[:256], x0[256:], x1[256:]
        t = torch.rand(len(start), 1)
        loss = (field(torch.cat([start + t * (end - start), t], 1)) - (end - start)).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return field


def coupled(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    i, j = metaot.couple(x0, x1)
    return x0[i], x1[j]


fields = {
    "independent pairs": trained(256, lambda x0, x1: (x0, x1)),
    "pairs of 256": trained(256, coupled),
    "pairs of 4096": trained(4096, coupled),
}

# %%
# Curvature is the mean square of the velocity less that of the straight line from start to end, relative to the
# latter: zero for straight lines. Four Euler steps are then as good as a hundred. The distance to data is a
# debiased Sinkhorn divergence.


@torch.no_grad()
def path(field: torch.nn.Module, x: Tensor, steps: int) -> Tensor:
    """Follow the field by Euler steps; return all places."""
    places = [x]
    for k in range(steps):
        x = x + field(torch.cat([x, torch.full((len(x), 1), k / steps)], 1)) / steps
        places.append(x)
    return torch.stack(places)


def curvature(places: Tensor) -> float:
    """Return how far velocities along paths are from those of straight lines."""
    velocities, line = places.diff(dim=0) * (len(places) - 1), places[-1] - places[0]
    return float((velocities - line).square().sum(-1).mean() / line.square().sum(-1).mean())


start, data = gaussians(1000), moons(1000)
distance = SinkhornLoss(0.05)
figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
for axis, (name, field) in zip(axes, fields.items(), strict=True):
    fine, coarse = path(field, start, 100), path(field, start, 4)
    print(
        f"{name}: curvature {curvature(fine):.4f}, distance to data after 4 Euler steps "
        f"{float(distance(coarse[-1], data)):.3f}, after 100 {float(distance(fine[-1], data)):.3f}"
    )
    axis.plot(*fine[:, :150].permute(2, 0, 1), color="0.8", lw=0.6, zorder=0)
    axis.scatter(*start[:150].T, s=4, color="tab:blue")
    axis.scatter(*coarse[-1].T, s=3, color="tab:orange")
    axis.set_title(f"{name}: curvature {curvature(fine):.3f}")
    axis.set_aspect("equal")
figure.suptitle("Paths of the trained fields (grey), and samples after 4 Euler steps (orange)")
figure.tight_layout()

# %%
# What pairs cost, and how far that is from the least cost at most, is known for every batch.

print(metaot.couple(gaussians(4096), moons(4096)))
