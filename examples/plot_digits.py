"""
A generator of digits
=====================

The experiment of Genevay, Peyré and Cuturi (arXiv 1706.00292) at low resolution: a small network learns to turn
points of a square into images of digits, which are points in the space of pixels. It is trained by the Sinkhorn
loss, and in as many steps by the maximum mean discrepancy (MMD).
"""

import os
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import Tensor, nn

from metaot.data.images import ImageArchives
from metaot.losses import SinkhornLoss

BATCH, STEPS, RATE, WIDTH, HELD_OUT = 200, 400, 2e-3, 256, 500

# %%
# The digits
# ----------
#
# MNIST, where the data folder has it, at 12 x 12 pixels; otherwise the digits that come with scikit-learn, 8 x 8.

folder = Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot"))
if (folder / "mnist").is_dir():
    images = [ImageArchives("mnist", 12).split(split).images[:10_000] / 255 for split in ("train", "test")]
else:
    images = list(torch.from_numpy(load_digits().images / 16).float().split([1297, 500]))
side = images[0].shape[-1]
data, unseen = (part.flatten(1) for part in images)
data, unseen, others = data[HELD_OUT:], unseen[:HELD_OUT], data[:HELD_OUT]
print(f"{len(data)} images of {side} x {side} pixels")

# %%
# Losses
# ------
#
# Images and points of the square are drawn anew in each step, so that no potentials are carried over. ``eps`` is a
# twentieth of the mean squared distance between digits. The MMD has the mean of three Gaussian kernels, whose
# widths are the median distance, its half and its quarter.

distances = torch.pdist(data[:500])
eps = 0.05 * distances.square().mean().item()
widths = distances.median() * torch.tensor([1.0, 0.5, 0.25])


def mmd(x: Tensor, y: Tensor) -> Tensor:
    def mean(s: Tensor, t: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(s, t).square()[..., None] / (2 * widths**2)).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


losses = {f"Sinkhorn loss, eps {eps:.2g}": SinkhornLoss(eps, tol=1e-2, remembers=False), "MMD": mmd}

# %%
# Training
# --------
#
# What was generated is compared with digits that no loss has seen, by two measures that none was trained on: the
# exact distance W2, without entropy, which is an assignment; and the share of all these images whose nearest
# neighbour is of their own kind. It is a half if generated and real digits have one distribution.


def exact(x: Tensor, y: Tensor) -> float:
    C = torch.cdist(x, y).square().double().numpy()
    return C[linear_sum_assignment(C)].mean() ** 0.5


def told_apart(x: Tensor, y: Tensor) -> float:
    both = torch.cat([x, y])
    nearest = torch.cdist(both, both).fill_diagonal_(torch.inf).argmin(1)
    return ((nearest < len(x)) == (torch.arange(len(both)) < len(x))).float().mean().item()


def square(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, 2, generator=generator) - 1


def trained(loss) -> tuple[nn.Module, list[float]]:
    """Train a network, and return it with its distances to unseen digits."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, side**2), nn.Sigmoid()
    )
    optimizer, history = torch.optim.Adam(network.parameters(), RATE), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS + 1)
    for step in range(STEPS + 1):
        if step % (STEPS // 10) == 0:
            with torch.no_grad():
                history.append(exact(network(fresh), unseen))
        drawn = data[torch.randint(len(data), (BATCH,), generator=generator)]
        optimizer.zero_grad()
        loss(network(square(BATCH, generator)), drawn).backward()
        optimizer.step()
        schedule.step()
    return network, history


fresh = square(len(unseen), torch.Generator().manual_seed(1))
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
t = torch.linspace(-0.95, 0.95, 14)
places = torch.stack(torch.meshgrid(t, t, indexing="ij"), -1)
for ax, (name, loss) in zip(axes, losses.items(), strict=False):
    start = perf_counter()
    network, history = trained(loss)
    seconds = perf_counter() - start
    with torch.no_grad():
        made, tiles = network(fresh), network(places)
    share = told_apart(made, unseen)
    print(f"{name}: W2 to unseen digits {history[-1]:.2f}, told apart {share:.2f}, {seconds:.0f} s")
    ax.imshow(tiles.reshape(14, 14, side, side).transpose(1, 2).reshape(14 * side, -1).numpy(), cmap="gray_r")
    ax.set(title=f"{name}: over the square", xticks=[], yticks=[])
    axes[2].plot(range(0, STEPS + 1, STEPS // 10), history, label=name)
floor = exact(others, unseen)
print(f"two samples of the digits: W2 {floor:.2f}, told apart {told_apart(others, unseen):.2f}")
axes[2].axhline(floor, color="0.6", linestyle=":", label="two samples of the digits")
axes[2].set(xlabel="step", title="W2 to unseen digits")
axes[2].legend()
plt.show()

# %%
# The Sinkhorn loss is the better one here, by both measures, and takes more time for a step. The square becomes a
# map of digits. In as many dimensions as there are pixels, the kernels of the MMD see hardly more than the mean
# and the spread of the pixels. Its W2 may come below that between two samples of the digits, which is no sign of
# quality: blurred digits are near to many others. The second measure is not deceived, and tells nearly all of them
# apart.
