"""
Fitting by the Sinkhorn loss
============================

``SinkhornLoss`` compares two clouds of samples, and is least where their distributions are equal. It asks for
samples and not for a density, so that it fits models that have none. This page fits a family with a few
parameters, and then a small network, each beside the maximum mean discrepancy (MMD) in as many steps.
"""

import math
from time import perf_counter

import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from metaot.losses import SinkhornLoss


def gaussian_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared MMD of a Gaussian kernel, half as wide as the median distance between data."""
    width = torch.pdist(y).median() / 2

    def mean(s: Tensor, t: Tensor) -> Tensor:
        return torch.exp(-(s[:, None] - t).square().sum(-1) / (2 * width**2)).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared MMD of the kernel -|x - y|."""
    n, m = len(x), len(y)
    within = 2 * torch.pdist(x).sum() / n**2 + 2 * torch.pdist(y).sum() / m**2
    return 2 * torch.cdist(x, y).mean() - within


def losses(remembers: bool = True) -> dict:
    return {
        "Sinkhorn, eps 0.01": SinkhornLoss(0.01, remembers=remembers),
        "MMD, Gaussian": gaussian_mmd,
        "MMD, energy distance": energy_distance,
    }


COLOURS = dict(zip(losses(), ("tab:red", "tab:blue", "tab:green"), strict=True))


# %%
# A family of parameters
# ----------------------
#
# An ellipse in the plane has no density, so that there is no likelihood to be maximised. Its centre and its axes
# are fitted to samples that are a little off an ellipse. The angles are drawn once: each point keeps its place
# from step to step, and the Sinkhorn loss starts from the potentials of the step before.

COUNT = 200
generator = torch.Generator().manual_seed(0)


def ellipse(centre: Tensor, axes: Tensor) -> Tensor:
    """Return the points at random angles."""
    angle = 2 * math.pi * torch.rand(COUNT, generator=generator)
    return centre + torch.stack([angle.cos(), angle.sin()], -1) @ axes


truth = torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 0.6], [-0.2, 0.3]])
seen = ellipse(*truth) + 0.02 * torch.randn(COUNT, 2, generator=generator)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes[0].scatter(*seen.T, s=4, color="0.6", label="data")
for name, loss in losses().items():
    centre, matrix = torch.zeros(2, requires_grad=True), (0.5 * torch.eye(2)).requires_grad_()
    optimizer = torch.optim.Adam([centre, matrix], 0.05)
    state, history = generator.get_state(), []
    for _ in range(150):
        generator.set_state(state)  # the same angles in each step
        optimizer.zero_grad()
        loss(ellipse(centre, matrix), seen).backward()
        optimizer.step()
        shape = matrix.detach().T @ matrix.detach()  # the axes, but for a rotation of the angles
        history.append((centre.detach() - truth[0]).norm().item() + (shape - truth[1].T @ truth[1]).norm().item())
    axes[0].scatter(*ellipse(centre, matrix).detach().T, s=4, color=COLOURS[name], label=name)
    axes[1].plot(history, color=COLOURS[name], label=name)
    print(f"{name}: error of the parameters {history[0]:.2f} -> {history[-1]:.3f}")
axes[0].set(aspect="equal", xticks=[], yticks=[])
axes[1].set(yscale="log", xlabel="step", title="error of centre and axes")
axes[1].legend()
plt.show()

# %%
# The Sinkhorn loss needs about half of the steps: its force on a point is as far-reaching as the way that the
# point has to go. In the end the errors are alike, and are those of the samples.
#
# A small generator
# -----------------
#
# A network turns noise in the plane into two rings; noise and data are drawn anew in each step. What is measured
# on the way is the exact distance W2, without entropy, between new samples of both, on which nothing was trained.

STEPS, RATE, WIDTH = 400, 5e-3, 128


def rings(count: int) -> Tensor:
    """Return samples of two rings."""
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    radius = torch.where(torch.arange(count) % 2 == 0, 0.4, 1.0)[:, None]
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    return radius * circle + 0.03 * torch.randn(count, 2, generator=generator)


def exact(x: Tensor, y: Tensor) -> float:
    """Return the Wasserstein distance W2: between clouds of as many points it is an assignment."""
    C = torch.cdist(x, y).square().double().numpy()
    return C[linear_sum_assignment(C)].mean() ** 0.5


def trained(loss) -> tuple[Tensor, list[float]]:
    """Train a network; return its samples of new noise, and their distances to new data on the way."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2)
    )
    optimizer, history = torch.optim.Adam(network.parameters(), RATE), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS + 1)
    for step in range(STEPS + 1):
        if step % 25 == 0:
            with torch.no_grad():
                history.append(exact(network(noise), unseen))
        optimizer.zero_grad()
        loss(network(torch.randn(COUNT, 2, generator=generator)), rings(COUNT)).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return network(noise), history


unseen, others, noise = rings(500), rings(500), torch.randn(500, 2, generator=generator)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
for ax, (name, loss) in zip(axes, losses(remembers=False).items(), strict=False):
    start = perf_counter()
    samples, history = trained(loss)
    print(f"{name}: W2 to new data {history[0]:.2f} -> {history[-1]:.3f} ({perf_counter() - start:.1f} s)")
    ax.scatter(*unseen.T, s=2, color="0.75")
    ax.scatter(*samples.T, s=2, color=COLOURS[name])
    ax.set(title=name, aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[])
    axes[3].plot(range(0, STEPS + 1, 25), history, color=COLOURS[name])
floor = exact(others, unseen)
print(f"between two samples of the data: {floor:.3f}")
axes[3].axhline(floor, color="0.6", linestyle=":")
axes[3].set(yscale="log", xlabel="step", title="W2 to new data")
plt.show()

# %%
# The Sinkhorn loss comes closest to new data, and takes more time for a step. :doc:`plot_digits` does the same
# with images, and :doc:`/howto/loss` says how a loss is used.
