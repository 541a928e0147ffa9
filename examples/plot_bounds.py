"""
How good is it? Bounds
======================

A solver that stops early, a temperature that blurs, a network that only guesses: each gives a plan that is not
the cheapest one. ``bounds`` turns any potentials into two numbers between which the cost of the cheapest plan
lies. They are a certificate: to believe them, you need not believe the solver, nor the network.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import metaot
from metaot.amortize import ZeroStart
from metaot.solvers.solution import transport_bounds

# %%
# Problems with a known answer
# ----------------------------
#
# On a line, the cheapest plan keeps the order, so its cost is the integral of the squared difference of the
# quantiles: no solver is needed to know it.

POINTS = 300
t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
generator = torch.Generator().manual_seed(0)
weights = [
    torch.rand(POINTS, generator=generator, dtype=torch.float64) ** 4 * envelope for envelope in (1 - t, t**2)
]
a, b = (w / w.sum() for w in weights)


def exact_cost(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the cost of the plan that keeps the order."""
    levels = torch.cat([a.cumsum(0), b.cumsum(0)]).sort().values.clamp(max=1)
    middle = (levels + torch.cat([levels[:1] * 0, levels[:-1]])) / 2
    places = [t[torch.searchsorted(w.cumsum(0), middle).clamp(max=POINTS - 1)] for w in (a, b)]
    return float((levels.diff(prepend=levels[:1] * 0) * (places[0] - places[1]) ** 2).sum())


exact = exact_cost(a, b)
geometry = metaot.Dense((t[:, None] - t) ** 2)

# %%
# As eps falls
# ------------
#
# At the solution, the gap between both bounds is at most ``eps`` times the entropy of the plan given a
# marginal: it closes as ``eps`` falls.

temperatures = torch.logspace(-1, -4, 13, dtype=torch.float64)
problems = metaot.Problem(a.expand(13, POINTS), b.expand(13, POINTS), geometry, temperatures)
solutions = metaot.solve(problems, tol=1e-6)
bounds = solutions.bounds()
print(f"exact {exact:.6f}; at eps = 1e-4 between {bounds.lower[-1]:.6f} and {bounds.upper[-1]:.6f}")
print(f"all bounds hold: {bool((bounds.lower <= exact + 1e-9).all() and (bounds.upper >= exact - 1e-9).all())}")

# %%
# As a solver runs
# ----------------
#
# They hold at every step too, and long before the marginals are right: what is missing in the marginals is
# repaired, at a cost that is part of the upper bound.

problem = metaot.Problem(a, b, geometry, eps=3e-4)
counts = [0, 1, 3, 10, 30, 100, 300, 1000]
running = [
    metaot.solve(problem, solver=metaot.Sinkhorn(accelerated=False), tol=1e-12, max_steps=count)
    for count in counts
]

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
left.fill_between(
    temperatures, bounds.lower, bounds.upper, color="tab:orange", alpha=0.4, label="between the bounds"
)
left.plot(temperatures, solutions.cost(), color="tab:blue", label="<C, P> of the entropic plan")
left.set(xscale="log", xlabel="eps, at the solution", ylabel="cost", ylim=(0, None))
found = [solution.bounds() for solution in running]
right.fill_between(
    1 + np.array(counts), [float(k.lower) for k in found], [float(k.upper) for k in found],
    color="tab:orange", alpha=0.4,
)  # fmt: skip
right.plot(1 + np.array(counts), [float(solution.cost()) for solution in running], color="tab:blue")
right.set(xscale="log", xlabel="1 + plain Sinkhorn steps at eps = 3e-4")
for ax in (left, right):
    ax.axhline(exact, color="k", linewidth=0.8, linestyle=":", label="exact")
left.legend()
plt.show()

# %%
# Of a prediction
# ---------------
#
# ``transport_bounds`` takes any potentials, so a bare prediction has a certificate as well. Here are four pairs
# of images of random blobs. Even the solution leaves a gap, because ``eps`` is not zero; the model's is hardly
# wider, and without knowing anything, from f = 0, the bounds say next to nothing.

s = torch.linspace(0, 1, 32, dtype=torch.float64)
centres = torch.rand(8, 3, 2, generator=generator, dtype=torch.float64)
distances = (s[:, None, None] - centres[:, None, None, :, 0]) ** 2 + (
    s[:, None] - centres[:, None, None, :, 1]
) ** 2
images = torch.exp(-distances / 0.01).sum(-1).flatten(1)
images = images / images.sum(-1, keepdim=True)
blobs = metaot.Problem(images[:4], images[4:], metaot.Grid(32, 32), eps=1e-3)
known = {
    "f = 0": ZeroStart().predict(blobs),
    "predicted": metaot.load("universal").predict(blobs),
    "solved": metaot.solve(blobs).potentials,
}
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for k, (name, potentials) in enumerate(known.items()):
    certificate = transport_bounds(blobs, potentials)
    middle, half = (certificate.upper + certificate.lower) / 2, certificate.gap / 2
    ax.errorbar(np.arange(4) + 0.2 * (k - 1), middle, half, fmt="none", capsize=5, color=f"C{k}", label=name)
ax.set(xticks=range(4), xlabel="pair of images", ylabel="bounds of the cost", ylim=(0, None))
ax.legend()
plt.show()
