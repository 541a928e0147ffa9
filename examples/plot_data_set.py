"""
A distribution against a data set
=================================

Where one side of transport is a distribution that can be sampled and the other a whole data set, the potential on
the data is learned once. A new sample then goes to one of the data by one product, whatever batch it is in. The
plane is divided into one cell for each of the data: all samples in a cell go to the same point, and all cells have
the mass that their points ask for.
"""

import math

import matplotlib.pyplot as plt
import torch

import metaot
from metaot.maps import Normal

torch.manual_seed(0)
torch.set_num_threads(1)

# %%
# Forty points on a thick half circle, some of them heavier than others, against a normal distribution.

angle = math.pi * (torch.rand(40) - 0.5)
data = (2 + 2 * torch.rand(40))[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
weights = 0.3 + torch.rand(40)
semi = metaot.SemiDiscrete(data, weights).fit(Normal(2), tol=1e-3, progress=False)
print(semi.error)
print(f"{semi.samples} samples were drawn")

# %%
# ``assign`` couples new samples, ``map`` says where they go. At a temperature, ``eps``, a sample goes to each of
# the data with a probability, and is sent to their mean.

noise = torch.randn(2000, 2)
chosen = semi.assign(noise)
received = torch.bincount(chosen, minlength=len(data)) / len(noise)
print(f"largest difference from the weights: {float((received - semi.b).abs().max()):.4f}")

soft = metaot.SemiDiscrete(data, weights, eps=1.0).fit(Normal(2), progress=False)

# %%
# The cells, samples with their points, and where samples are sent at the temperature.

side = torch.linspace(-3, 3, 300)
plane = torch.cartesian_prod(side, side)
colours = torch.rand(len(data), 3)
cells = colours[semi.assign(plane)].reshape(300, 300, 3).transpose(0, 1)

figure, axes = plt.subplots(1, 3, figsize=(12, 4))
axes[0].imshow((0.4 + 0.6 * cells).numpy(), origin="lower", extent=(-3, 3, -3, 3))
axes[0].scatter(*noise[:400].T.numpy(), s=2, color="black")
axes[0].set(xlim=(-3, 3), ylim=(-3, 3))
axes[0].set_title("The cell of each point, and samples")
ends = data[chosen[:300]]
for start, end in zip(noise[:300].tolist(), ends.tolist(), strict=True):
    axes[1].plot(*zip(start, end, strict=True), color="0.8", lw=0.5, zorder=0)
axes[1].scatter(*noise[:300].T.numpy(), s=4, color="tab:blue")
axes[1].scatter(*data.T.numpy(), s=(2000 * semi.b).numpy(), color="tab:orange")
axes[1].set_title("Samples and the data that they go to")
axes[2].scatter(*data.T.numpy(), s=(2000 * semi.b).numpy(), color="tab:orange")
axes[2].scatter(*soft.map(noise).T.numpy(), s=2, color="tab:green")
axes[2].set_title("Where samples are sent at eps = 1")
for axis in axes[1:]:
    axis.set_xlim(-3, 5)
    axis.set_ylim(-5, 5)
figure.tight_layout()
