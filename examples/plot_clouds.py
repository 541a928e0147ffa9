"""
Point clouds
============

A measure is a set of points with weights. ``Points(x, y)`` holds both clouds and the cost between them; nothing
else changes. The universal model reads weighted points in the plane too, in any units.
"""

import math

import matplotlib.pyplot as plt
import torch

import metaot

# %%
# Two clouds
# ----------
#
# A disc and a spiral, in metres. Both have equal weights here; weights of zero are allowed, so clouds of
# different sizes fit into one batch when the smaller ones are filled up with points of weight zero.

generator = torch.Generator().manual_seed(0)
COUNT = 400


def uniform(count: int) -> torch.Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


radius, angle = 20 * uniform(COUNT).sqrt(), 2 * math.pi * uniform(COUNT)
x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
turn = 4.5 * math.pi * uniform(COUNT).sqrt()
y = 2.2 * turn[:, None] * torch.stack([turn.cos(), turn.sin()], -1) + 0.8 * torch.randn(
    COUNT, 2, generator=generator, dtype=torch.float64
)

geometry = metaot.Points(x, y)
a = torch.full((COUNT,), 1 / COUNT, dtype=torch.float64)

# %%
# The temperature
# ---------------
#
# ``eps`` is in the units of the cost: square metres here. A share of the mean cost is a good first choice, see
# :doc:`plot_eps`.

mean_cost = float(geometry.mean_cost())
problem = metaot.Problem(a, a, geometry, eps=0.005 * mean_cost)
model = metaot.load("universal")
solution = metaot.solve(problem, init=model)
print(f"mean cost {mean_cost:.0f} square metres, of the plan {float(solution.cost()):.0f}")
print(f"steps from the model {int(solution.steps)}, from zeros {int(metaot.solve(problem).steps)}")

# %%
# The barycentric map
# -------------------
#
# ``transport`` returns for each source point the mean of the target's points that it sends its mass to. Colours
# are those of the source's points before and after.

moved = solution.transport()
colours = angle / (2 * math.pi)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), sharex=True, sharey=True, layout="constrained")
for ax, cloud, title in zip(axes, (x, y, moved), ("source", "target", "source, moved"), strict=True):
    kind = {"color": "0.6"} if cloud is y else {"c": colours, "cmap": "hsv"}
    ax.scatter(cloud[:, 0], cloud[:, 1], s=9, **kind)
    ax.set(title=title, xlabel="metres", aspect="equal")
axes[0].set_ylabel("metres")
plt.show()

# %%
# Any values may be transported, not only coordinates: ``solution.transport(values)`` averages the rows of
# ``values``, one for each target point. With labels as values this is how labels are carried from one data set
# to another.

labels = torch.nn.functional.one_hot((turn > 3 * math.pi).long(), 2).to(x)
outer = (a[:, None] * solution.transport(labels)).sum(0)[1]
print(f"share of the source that belongs to the outer part: {float(outer):.3f}")

# %%
# Another cost
# ------------
#
# The distance itself, ``"euclidean"``, the angle between unit vectors, ``"sphere"``, or a function of your own
# that returns the matrix of costs. An infinite cost forbids a pair. Here nothing may cross the vertical axis,
# where mass on both sides allows it: to make it so, both sides get half of the mass.


def one_sided(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    crosses = (x[..., :, None, 0] > 0) != (y[..., None, :, 0] > 0)
    return torch.where(crosses, math.inf, torch.cdist(x, y))


def halved(cloud: torch.Tensor) -> torch.Tensor:
    right = (cloud[:, 0] > 0).to(cloud)
    return 0.5 * right / right.sum() + 0.5 * (1 - right) / (1 - right).sum()


plans = {}
for name, cost in (("free", "euclidean"), ("nothing crosses the axis", one_sided)):
    free = metaot.Problem(halved(x), halved(y), metaot.Points(x, y, cost), eps=0.3)
    plans[name] = metaot.solve(free, tol=1e-5)

figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
for ax, (name, found) in zip(axes, plans.items(), strict=True):
    goals = found.transport(y)
    ax.plot(
        torch.stack([x[:, 0], goals[:, 0]]), torch.stack([x[:, 1], goals[:, 1]]), color="tab:blue", linewidth=0.5
    )
    ax.scatter(y[:, 0], y[:, 1], s=3, color="0.5")
    ax.axvline(0, color="k", linewidth=0.8, linestyle=":")
    ax.set(title=f"{name}: {float(found.cost()):.2f} metres", xlabel="metres", aspect="equal")
axes[0].set_ylabel("metres")
plt.show()
