"""
Conserved quantities from distances between trajectories
========================================================

The states along a trajectory are a sample of its invariant measure. Trajectories of equal energy have the same
measure, so the distances between these measures know the energy, though no equation was given (Lu, Ariño Bernad
and Soljačić, Nature Communications 2023). ``pairwise`` makes the matrix of distances, and a diffusion map orders
the trajectories.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import metaot
from metaot.losses import pairwise

TRAJECTORIES, STATES, STEPS, STRIDE, DT = 50, 80, 3200, 40, 0.0125


def trajectories(force, start: Tensor) -> Tensor:
    """Return states (position, velocity) along the way from each start, by the leapfrog scheme."""
    q, p = start.unbind(-1)
    states = []
    for step in range(STEPS):
        p = p + DT / 2 * force(q)
        q = q + DT * p
        p = p + DT / 2 * force(q)
        if step % STRIDE == 0:
            states.append(torch.stack([q, p], -1))
    return torch.stack(states, 1)


# %%
# A pendulum below the energy at which it turns over, and a particle in a double well, above and below the barrier.
# The start of each trajectory is at rest, at a random place.

generator = torch.Generator().manual_seed(0)
u = torch.rand(TRAJECTORIES, generator=generator, dtype=torch.float64)
rest = torch.zeros_like(u)
systems = {
    "pendulum": (
        trajectories(lambda q: -q.sin(), torch.stack([0.2 + 2.6 * u, rest], -1)),
        lambda q, p: p**2 / 2 - q.cos(),
    ),
    "double well": (
        trajectories(lambda q: q - q**3, torch.stack([1.05 + 0.75 * u, rest], -1)),
        lambda q, p: p**2 / 2 - q**2 / 2 + q**4 / 4,
    ),
}


# %%
# Distances, and the first coordinate of a diffusion map
# ------------------------------------------------------


def diffusion_coordinate(D: Tensor) -> Tensor:
    """Return the first coordinate of a diffusion map for squared distances, scaled by those to neighbours."""
    scale = D.kthvalue(8, dim=1).values.sqrt()
    K = torch.exp(-D / (scale[:, None] * scale))
    mass = K.sum(1)
    K = K / (mass[:, None] * mass)
    root = K.sum(1).sqrt()
    vectors = torch.linalg.eigh(K / (root[:, None] * root)).eigenvectors
    return vectors[:, -2] / root


def rank_correlation(s: Tensor, t: Tensor) -> float:
    """Return Spearman's rank correlation."""
    ranks = torch.stack([s.argsort().argsort(), t.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()


weights = torch.full((TRAJECTORIES, STATES), 1 / STATES, dtype=torch.float64)
figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
for line, (name, (states, energy_of)) in zip(axes, systems.items(), strict=True):
    energy = energy_of(*states.unbind(-1)).mean(1)
    D = pairwise(weights, metaot.Points(states), eps=0.05).clamp_min(0)
    coordinate = diffusion_coordinate(D)
    agreement = abs(rank_correlation(coordinate, energy))
    print(f"{name}: rank correlation of the first coordinate with the energy {agreement:.4f}")
    order = energy.argsort()
    for k in order[:: TRAJECTORIES // 8].tolist():
        height = float((energy[k] - energy.min()) / energy.std() / 4)
        line[0].scatter(*states[k].T.numpy(), s=2, color=plt.get_cmap("viridis")(height))
    line[0].set(title=f"{name}: states", xlabel="position", ylabel="velocity")
    line[1].imshow(D[order][:, order].sqrt().numpy(), cmap="magma")
    line[1].set(title="distances, by energy", xticks=[], yticks=[])
    line[2].scatter(energy, coordinate, s=10)
    line[2].set(title="diffusion coordinate", xlabel="energy", yticks=[])
plt.show()
