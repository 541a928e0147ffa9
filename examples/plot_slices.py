"""
Slices
======

On a line optimal transport is sorting. The sliced Wasserstein distance takes the mean over projections of clouds
on lines: cheap in any dimension, and a loss. Here a cloud flows into a shape along its gradient, the error bar is
held against the number of directions, and angles are compared on a circle.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from metaot.losses import sliced_estimate, sliced_wasserstein, wasserstein_1d

# %%
# A gradient flow
# ---------------
#
# ``sliced_wasserstein`` returns the distance, for ``p=2`` the square root. Half of its square, times the number of
# points, has a simple gradient: for each point the mean over directions of its way to the point of the same rank.
# Without a generator the directions are always the same, so that the loss is a fixed function.

generator = torch.Generator().manual_seed(0)
COUNT, STEPS = 600, 60
angle = 2 * math.pi * torch.rand(COUNT, generator=generator, dtype=torch.float64)
radius = torch.where(torch.arange(COUNT) % 3 > 0, 1.0, 0.45)
rings = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
rings += 0.02 * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)

x = 0.2 * torch.randn(COUNT, 2, generator=generator, dtype=torch.float64) + torch.tensor([1.2, 0.8])
frames, values = [x], []
for _ in range(STEPS):
    x = x.detach().requires_grad_()
    loss = sliced_wasserstein(x, rings)
    (gradient,) = torch.autograd.grad(COUNT / 2 * loss.square(), x)
    values.append(loss.item())
    x = (x - gradient).detach()
    frames.append(x)
print(f"distance {values[0]:.3f}, after {STEPS} steps {values[-1]:.4f}")

shown = (0, 2, 8, STEPS)
figure, axes = plt.subplots(1, len(shown), figsize=(11, 2.9), sharex=True, sharey=True)
for panel, step in zip(axes, shown, strict=True):
    panel.scatter(*rings.T, s=3, color="0.75")
    panel.scatter(*frames[step].T, s=3, color="tab:red")
    panel.set(title=f"step {step}", aspect="equal", xticks=[], yticks=[])
plt.tight_layout()
plt.show()

# %%
# The error bar
# -------------
#
# ``sliced_estimate`` says how far the mean over directions may be from the one over the whole sphere. Even
# directions are nearer to it than random ones, and their error bar is on the safe side. The truth is the value for
# many more directions.

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
counts = [16, 32, 64, 128, 256, 512]
for panel, d in zip(axes, (3, 8), strict=True):
    scales = torch.linspace(0.3, 2, d, dtype=torch.float64)
    first, second = torch.randn(2, 300, d, generator=generator, dtype=torch.float64)
    second = second * scales
    truth = sliced_wasserstein(first, second, directions=4000)
    even = [sliced_estimate(first, second, directions=count) for count in counts]
    random = []
    for count in counts:
        drawn = normalize(torch.randn(8, count, d, generator=generator, dtype=torch.float64), dim=-1)
        found = torch.stack([sliced_wasserstein(first, second, directions=vectors) for vectors in drawn])
        random.append((found - truth).square().mean().sqrt())
    panel.loglog(counts, random, "s-", color="0.6", label="random directions, error")
    panel.loglog(counts, [(each.value - truth).abs() for each in even], "o-", label="even directions, error")
    panel.loglog(counts, [each.error for each in even], "o:", color="tab:blue", label="their error bar")
    panel.set_xticks(counts, map(str, counts))
    panel.minorticks_off()
    panel.set(title=f"{d} dimensions", xlabel="directions")
axes[0].set(ylabel="error of the distance")
axes[0].legend()
plt.tight_layout()
plt.show()

# %%
# On a circle
# -----------
#
# Angles, hours of a day and phases live on a circle: ``period`` says how long it is. The cut at which the circle
# becomes a line is the best one, for any ``p``, exactly. Times around midnight and the same times one hour later
# are an hour apart, which on a line they are not.

hours = (23.5 + 1.5 * torch.randn(500, generator=generator, dtype=torch.float64)).remainder(24)
later = (hours + 1).remainder(24)
on_circle, on_line = wasserstein_1d(hours, later, period=24.0), wasserstein_1d(hours, later)
print(f"hours apart: {on_circle:.3f} on the circle, {on_line:.3f} on a line")
