"""
Outliers: transport that leaves mass behind
===========================================

Two clouds of points differ by a small shift, and one of them has a few points far away. Balanced transport must
move every point, and so the outliers bend the whole plan. A price for the marginals, ``metaot.TV(rho)`` or
``metaot.KL(rho)``, lets mass stay where it is.
"""

import matplotlib.pyplot as plt
import torch

import metaot

generator = torch.Generator().manual_seed(0)
count, far = 190, 10
x = torch.randn(count + far, 2, generator=generator, dtype=torch.float64)
x[count:] = 0.3 * x[count:] + torch.tensor([9.0, 6.0], dtype=torch.float64)
y = torch.randn(count, 2, generator=generator, dtype=torch.float64) + torch.tensor([2.0, 0.0], dtype=torch.float64)
a, b = (torch.full((len(z),), 1 / len(z), dtype=torch.float64) for z in (x, y))

# %%
# The price is in the units of the cost, here a squared distance. With TV on both sides nothing that costs more
# than 2 rho is worth moving; with KL it is moved the less, the more it costs.

prices = {"balanced": None, "TV(10)": metaot.TV(10.0), "KL(3)": metaot.KL(3.0)}
solutions = {
    name: metaot.solve(metaot.Problem(a, b, metaot.Points(x, y), 0.2, price)) for name, price in prices.items()
}
for name, solution in solutions.items():
    moved = solution.plan().sum(1)[count:].sum() / a[count:].sum()
    print(f"{name}: mass {solution.mass():.3f}, {moved:.1%} of the outliers' mass is moved, {solution}")

# %%
# Each line joins a point with the mean of where its mass goes; its strength is the part of the mass that is moved.

figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
for axis, (name, solution) in zip(axes, solutions.items(), strict=True):
    share = (solution.plan().sum(1) / a).clamp(0, 1)
    for start, end, strength in zip(x, solution.transport(), share, strict=True):
        axis.plot(*zip(start.tolist(), end.tolist(), strict=True), color="0.4", lw=0.7, alpha=float(strength))
    axis.scatter(*x.T, s=8, color="tab:blue", label="source")
    axis.scatter(*y.T, s=8, color="tab:orange", label="target")
    axis.set_title(f"{name}: mass {float(solution.mass()):.2f}")
    axis.set_aspect("equal")
axes[0].legend(loc="upper left")
figure.tight_layout()
