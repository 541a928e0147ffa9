r"""
Choosing eps
============

Entropic transport has one parameter, the temperature ``eps``. It is in the units of the cost, it blurs the plan
over a distance of about :math:`\sqrt{\epsilon}` for a squared cost, and it decides how many steps a solver
needs. This page shows what changes with it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import metaot

# %%
# One problem at four temperatures
# --------------------------------
#
# Two measures on a line, so that the plan is a picture: the mass that goes from each place of the source (down)
# to each place of the target (across). Without entropy all of it would lie on a curve.

POINTS = 150
t = torch.linspace(0, 1, POINTS, dtype=torch.float64)


def bumps(*centres: float, width: float = 0.06) -> torch.Tensor:
    values = sum(torch.exp(-((t - centre) ** 2) / (2 * width**2)) for centre in centres) + 1e-3
    return values / values.sum()


a, b = bumps(0.2, 0.55), bumps(0.4, 0.8, width=0.09)
C = (t[:, None] - t) ** 2
mean_cost = float(a @ C @ b)
shares = [1.0, 0.1, 0.01, 0.001]

figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), sharey=True, layout="constrained")
for ax, share in zip(axes, shares, strict=True):
    solution = metaot.solve(metaot.Problem(a, b, metaot.Dense(C), eps=share * mean_cost))
    P = solution.plan()
    ax.imshow(P.numpy(), cmap="Blues", extent=(0, 1, 1, 0), vmax=float(P.quantile(0.997)))
    excess = float(solution.cost()) / float(solution.bounds().lower) - 1
    ax.set(title=f"eps = {share:g} of the mean cost", xlabel=f"target\n<C, P> {excess:.1%} too high")
axes[0].set_ylabel("source")
plt.show()

# %%
# What changes
# ------------
#
# As ``eps`` falls, the cost of the plan comes down to the cheapest one, and plain Sinkhorn needs more and more
# steps: about :math:`1/\epsilon`. The methods that ``solve`` chooses need far fewer, so a small ``eps`` is
# affordable; the bounds say what it buys.

temperatures = np.logspace(0, -3, 10) * mean_cost
batch = metaot.Problem(
    a.expand(10, POINTS), b.expand(10, POINTS), metaot.Dense(C), torch.from_numpy(temperatures)
)  # one eps for each problem of a batch
chosen = metaot.solve(batch, tol=1e-4)
plain = metaot.solve(batch, solver=metaot.Sinkhorn(accelerated=False), tol=1e-4, max_steps=10_000)
bounds = chosen.bounds()

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
relative = temperatures / mean_cost
left.plot(relative, chosen.cost(), color="tab:blue", label="<C, P>")
left.fill_between(
    relative, bounds.lower, bounds.upper, color="tab:orange", alpha=0.4, label="bounds without entropy"
)
left.set(xscale="log", xlabel="eps / mean cost", ylabel="cost")
left.legend()
right.plot(relative, plain.steps, color="0.6", label="plain Sinkhorn")
right.plot(relative, chosen.steps, color="tab:blue", label="chosen by solve")
right.set(xscale="log", yscale="log", xlabel="eps / mean cost", ylabel="steps to an L1 error of 1e-4")
right.legend()
plt.show()

# %%
# In words
# --------
#
# * For a smooth map, a divergence or a gradient, take a tenth to a hundredth of the mean cost.
# * For a plan that is nearly the cheapest one, take a thousandth, and look at ``solution.bounds()``.
# * For the cheapest plan itself, no ``eps`` is small enough: use a network simplex, such as
#   ``metaot.adapters.pot.emd``.
# * Costs are never rescaled behind your back: if you double the cost, double ``eps``, and the plan stays the
#   same.
# * A model is trained for a range of ``eps``: ``metaot.load("universal").eps``.

doubled = metaot.solve(metaot.Problem(a, b, metaot.Dense(2 * C), eps=0.02 * mean_cost)).plan()
same = metaot.solve(metaot.Problem(a, b, metaot.Dense(C), eps=0.01 * mean_cost)).plan()
print(f"twice the cost, twice eps: the plans differ by {float((doubled - same).abs().sum()):.0e}")
