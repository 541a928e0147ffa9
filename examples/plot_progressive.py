"""
Progressive transport
=====================

One entropic problem at a high temperature is solved at once, and its map shrinks everything; at a low temperature
it takes many steps of the solver. Progressive transport (Kassraie et al., 2024) goes in between: it solves several
problems, moves the points a part of the way after each of them, and lowers the temperature while they come nearer.
"""

# %%
# Points of eight Gaussians go to two half moons. Every map is learned from the points where they are then, and all
# of them apply to points that no problem has seen.

import matplotlib.pyplot as plt
import torch

from metaot import Points, Problem, solve
from metaot.maps import progot

torch.manual_seed(0)
COUNT = 800


def gaussians(count):
    angle = torch.randint(8, (count,)) * torch.pi / 4
    return 4 * torch.stack([angle.cos(), angle.sin()], -1) + 0.35 * torch.randn(count, 2)


def moons(count):
    angle, upper = torch.pi * torch.rand(count), torch.rand(count) < 0.5
    x, y = torch.where(upper, angle.cos(), 1 - angle.cos()), torch.where(upper, angle.sin(), 0.5 - angle.sin())
    return 3 * torch.stack([x, y], -1) - torch.tensor([1.5, 0.75]) + 0.15 * torch.randn(count, 2)


x, y, new = gaussians(COUNT), moons(COUNT), gaussians(COUNT)
found = progot(x, y, steps=4, schedule="constant")
print(found)
print("temperatures:", [f"{float(eps):.3f}" for eps in found.eps])

# %%
# Where new points are after each of the maps, and where a single map at the first temperature sends them.

weights = torch.full((COUNT,), 1 / COUNT)
single = solve(Problem(weights, weights, Points(x, y), found.eps[0]), tol=1e-3).map()

places = [new]
for solution, length in zip(found.solutions, found.lengths, strict=True):
    places.append(places[-1] + length * (solution.map().push(places[-1]) - places[-1]))

figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
titles = ["new points", *(f"after map {k}" for k in range(1, 5)), "one map, first temperature"]
for axis, points, title in zip(axes.flat, [*places, single.push(new)], titles, strict=True):
    axis.scatter(*y.T.numpy(), s=4, color="tab:orange", label="target")
    axis.scatter(*points.T.numpy(), s=4, color="tab:blue", label="moved")
    axis.set(title=title, aspect="equal")
axes[1, 2].legend(loc="upper right", markerscale=3)
plt.show()

# %%
# The last cloud lies on the target; the single map has kept its middle only.

off = [float(torch.cdist(points, y).amin(1).mean()) for points in (places[-1], single.push(new))]
print(f"mean distance to the target: {off[0]:.2f} in four steps, {off[1]:.2f} in one")
