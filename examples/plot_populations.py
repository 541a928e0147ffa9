"""
A population that splits in two
===============================

Cells that decide are seen at several times, each time other cells, because to look at one destroys it. Which way
they all go is still in the clouds: they flow down a potential, and `learn_potential` finds it.
"""

# %%
# Six snapshots
# -------------
# The population moves up, and splits to the left and to the right. No cell is seen twice.

import matplotlib.pyplot as plt
import torch

from metaot.data.snapshots import splitting, splitting_gradient
from metaot.inverse import L1, GaussianSnapshots, Monomials, learn_potential

tau = 0.2
snapshots = splitting(tau, count=800)

figure, panel = plt.subplots(figsize=(6, 4.5))
for k, cloud in enumerate(snapshots):
    panel.scatter(*cloud.T, s=3, color=plt.cm.viridis(k / 5), label=f"t = {k * tau:.1f}")
panel.set(xlabel="x", ylabel="y", title="other cells at each time")
panel.legend(markerscale=3)
figure.tight_layout()

# %%
# The potential
# -------------
# Consecutive snapshots are matched by entropic transport, from whose map the one of each cloud to itself is taken
# off. The gradients that this asks for are fitted by monomials: one linear system.

found = learn_potential(snapshots, tau=tau, eps=0.05, features=Monomials(2, 4), scheme="trapezoid")
print(found)
print("steps of the solver between snapshots:", [int(move.solutions[0].steps) for move in found.moves])

# %%
# Arrows are the drift, minus the gradient of the potential; where no cell has been, nothing is known of it.

seen = torch.cat(snapshots)
grid = torch.cartesian_prod(torch.linspace(-1.5, 1.5, 19), torch.linspace(-0.8, 1.8, 17)).double()
near = torch.cdist(grid, seen).amin(1) < 0.15
arrows, truth = found.drift(grid[near]), -splitting_gradient(grid[near])

figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
for panel, drift, title in zip(panels, (arrows, truth), ("learned", "true"), strict=True):
    panel.scatter(*snapshots[0].T, s=2, color="#c8c8c8")
    panel.scatter(*snapshots[-1].T, s=2, color="#e8c080")
    panel.quiver(*grid[near].T, *drift.T, angles="xy", scale=30, color="#2060a0", width=0.004)
    panel.set(xlabel="x", title=f"drift, {title}")
panels[0].set(ylabel="y")
figure.tight_layout()
print("relative error of the drift:", float((arrows - truth).norm() / truth.norm()))

# %%
# Where is the potential low?
# ---------------------------

fine = torch.cartesian_prod(torch.linspace(-1.6, 1.6, 81), torch.linspace(-0.8, 2.0, 61)).double()
values = found.potential(fine).reshape(81, 61)
known = (torch.cdist(fine, seen).amin(1) < 0.15).reshape(81, 61)
figure, panel = plt.subplots(figsize=(6, 4.5))
shown = torch.where(known, values - values[known].mean(), torch.nan)
picture = panel.contourf(*(z.reshape(81, 61) for z in fine.T), shown, levels=20, cmap="viridis")
figure.colorbar(picture, label="V")
panel.set(xlabel="x", ylabel="y", title="the learned potential: two valleys")
figure.tight_layout()

# %%
# Gaussian populations
# --------------------
# Where V = x^T theta x and the population is Gaussian, all is in closed form, and no transport problem is solved.
# A penalty finds which coordinates act on each other; its certificate says whether that can be trusted.

theta = 0.25 * (2.2 * torch.eye(6) - torch.eye(6).roll(1, 0) - torch.eye(6).roll(-1, 0)).double()
clouds = []
for k in range(6):
    flow = torch.linalg.matrix_exp(-0.2 * k * theta)
    clouds.append((2 + torch.randn(5000, 6, generator=torch.Generator().manual_seed(k)).double()) @ flow.T)
sparse = learn_potential(GaussianSnapshots.of(clouds), tau=0.1, scheme="flow", penalty=L1(0.08))
print(sparse.certificate)

figure, panels = plt.subplots(1, 2, figsize=(8, 3.8))
for panel, matrix, title in zip(panels, (sparse.theta, theta), ("learned", "true"), strict=True):
    panel.imshow(matrix.numpy(), cmap="PuOr", vmin=-0.6, vmax=0.6)
    panel.set(xticks=[], yticks=[], title=f"theta, {title}")
figure.tight_layout()
