"""
A generator trained by the Sinkhorn loss
========================================

``SinkhornLoss`` compares two clouds of samples, and is minimised where their distributions are equal. Here a small
network learns to turn noise into two rings, once with the Sinkhorn loss and once with the maximum mean discrepancy
(MMD), whose gradient fades where a sample is far from all data.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from metaot.losses import SinkhornLoss

COUNT, STEPS, RATE, NOISE = 200, 250, 1e-2, 8


def rings(count: int, generator: torch.Generator) -> Tensor:
    """Return samples of two rings."""
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    radius = torch.where(torch.arange(count) % 2 == 0, 0.4, 1.0)
    noise = 0.03 * torch.randn(count, 2, generator=generator)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1) + noise


def mmd(x: Tensor, y: Tensor, width: float = 0.2) -> Tensor:
    """Return the squared MMD of a Gaussian kernel."""

    def mean(s: Tensor, t: Tensor) -> Tensor:
        return torch.exp(-(s[:, None] - t).square().sum(-1) / (2 * width**2)).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


# %%
# The loss
# --------
#
# The noise is drawn once, so each sample keeps its place from step to step, and the loss starts from the
# potentials of the step before.


def trained(loss) -> tuple[Tensor, list[float]]:
    """Train a network, and return what it makes of the noise, and its distance to new data on the way."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(NOISE, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    noise, data = torch.randn(COUNT, NOISE, generator=generator), rings(COUNT, generator)
    test = rings(COUNT, generator)
    optimizer, distance, history = torch.optim.Adam(network.parameters(), RATE), SinkhornLoss(0.01), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss(network(noise), data).backward()
        optimizer.step()
        if step % 25 == 0 or step == STEPS - 1:
            with torch.no_grad():
                history.append(distance(network(noise), test).item())
    with torch.no_grad():
        return network(noise), history


found = {"Sinkhorn loss, eps 0.01": trained(SinkhornLoss(0.01)), "MMD, width 0.2": trained(mmd)}
for name, (_, history) in found.items():
    print(f"{name}: divergence to new data {history[0]:.3f} -> {history[-1]:.4f}")

data = rings(COUNT, torch.Generator().manual_seed(1))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (name, (samples, history)) in zip(axes, found.items(), strict=False):
    ax.scatter(*data.T, s=3, color="0.75", label="data")
    ax.scatter(*samples.T, s=4, color="tab:red", label="generated")
    ax.set(title=name, aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[])
    axes[2].plot([25 * k for k in range(len(history))], history, label=name)
axes[0].legend(loc="upper left")
axes[2].set(yscale="log", xlabel="step", title="divergence to new data, eps 0.01")
axes[2].legend()
plt.show()

# %%
# ``loss(a, x, b, y)`` takes weights, and batches of clouds give a value each. ``torch.compile`` takes the loss as
# it is. For images on a grid, or another cost, take ``metaot.losses.sinkhorn_divergence``, whose ``init=`` is the
# solution of the step before.
