"""
Registration of shapes
======================

Gromov-Wasserstein looks at distances within each shape only. So it finds which point of a shape is which of a
bent, rotated copy with its points in another order, where nothing is known about the pose.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from metaot import Points
from metaot.maps import gromov_wasserstein

# %%
# A shape and its bent copy
# -------------------------
#
# The shape is a body with a head, a tail and four legs. The copy is bent sideways along its length and turned, and
# its points are in another order. Colours show the place along the shape.

generator = torch.Generator().manual_seed(0)


def tube(start: list[float], end: list[float], radius: float, count: int) -> Tensor:
    """Return random points of a cylinder between two points."""
    a, b = (torch.tensor(point, dtype=torch.float64) for point in (start, end))
    along = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    around = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return a + along * (b - a) + radius * around / around.norm(dim=-1, keepdim=True)


parts = [tube([-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], 0.25, 260), tube([1.1, 0.0, 0.2], [1.6, 0.0, 0.5], 0.15, 90)]
parts.append(tube([-1.2, 0.0, 0.1], [-2.2, 0.0, 0.5], 0.04, 60))
parts += [tube([x, y, -0.2], [x, 1.4 * y, -0.9], 0.08, 45) for x in (-0.8, 0.8) for y in (-0.2, 0.2)]
shape = torch.cat(parts)


def bent(x: Tensor, curvature: float) -> Tensor:
    """Bend points sideways: the axis becomes an arc."""
    angle, radius = curvature * x[:, 0], 1 / curvature + x[:, 1]
    return torch.stack([radius * angle.sin(), radius * angle.cos() - 1 / curvature, x[:, 2]], -1)


turn = torch.tensor(1.0)
rotation = torch.tensor(
    [[turn.cos(), turn.sin(), 0], [-turn.sin(), turn.cos(), 0], [0, 0, 1]], dtype=torch.float64
)
order = torch.randperm(len(shape), generator=generator)
copy = (bent(shape, 0.35) @ rotation)[order]

# %%
# Which point is which
# --------------------
#
# Without ``eps`` the plan is a permutation, ``assignment``. It is held against the true one: how far each point is
# sent from its own place, in units of the shape's length.

found = gromov_wasserstein(shape, copy)
print(found)
truth = copy[order.argsort()]
distance = (copy[found.assignment] - truth).norm(dim=-1) / (shape[:, 0].max() - shape[:, 0].min())
print(f"median distance from the true place: {distance.median():.3f} of the length")

colours = shape[:, 0]
received = torch.empty_like(colours)
received[found.assignment] = colours


def draw(panel: plt.Axes, x: Tensor, colour: Tensor, title: str) -> None:
    panel.scatter(*x.T.numpy(), c=colour.numpy(), cmap="turbo", s=5, clip_on=False)
    panel.set_title(title)
    panel.set_box_aspect(tuple(x.amax(0) - x.amin(0)), zoom=1.3)
    panel.set_axis_off()


figure = plt.figure(figsize=(10, 3.6))
for k, (x, colour, title) in enumerate(
    [(shape, colours, "the shape"), (copy, received, "bent copy, colours by the plan")]
):
    panel = figure.add_subplot(1, 2, k + 1, projection="3d", elev=22, azim=-65)
    draw(panel, x, colour, title)
plt.tight_layout()
plt.show()

# %%
# Starts
# ------
#
# The distortion has many local minima: a shape may be laid on its copy head to tail, or mirrored. ``values`` are
# those of all starts. The best few went on, and the plan of independent atoms, the last one; the others show what
# they were compared by, with entropy in it.

figure, panel = plt.subplots(figsize=(5, 2.8))
panel.bar(range(len(found.values)), found.values.numpy())
panel.set(xlabel="start", ylabel="distortion")
plt.tight_layout()
plt.show()

# %%
# A smooth plan
# -------------
#
# With entropy the plan sends each point to a few near each other, and its mean is a smooth map. ``eps`` is in the
# units of the distortion.

eps = 0.02 * float(Points(shape).std_cost() * Points(copy).std_cost())
smooth = gromov_wasserstein(shape, copy, eps=eps, tol=1e-4)
sent = smooth.transport(copy)
print(smooth)
distance = (sent - truth).norm(dim=-1) / (shape[:, 0].max() - shape[:, 0].min())
print(f"median distance from the true place: {distance.median():.3f} of the length")
