"""
Barycenters
===========

A barycenter is the measure in the middle of several ones: not the mean of their pixels, in which all of them are
seen at once, but a shape between their shapes. Any number of measures, any weights, any dimension.
"""

import gzip
import os
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from metaot import Grid
from metaot.averages import barycenter, entropic_barycenter, free_barycenter

# %%
# A square of shapes
# ------------------
#
# Four shapes in the corners, and between them barycenters with bilinear weights: 25 rows of weights in one call.

SIDE, EPS = 40, 1e-3
t = torch.linspace(-0.5, 0.5, SIDE, dtype=torch.float64)
y, x = torch.meshgrid(t, t, indexing="ij")
r = (x.square() + y.square()).sqrt()
cross = ((x.abs() < 0.1) & (y.abs() < 0.4)) | ((y.abs() < 0.1) & (x.abs() < 0.4))
heart = (x.square() + (-1.2 * y + 0.1 - 0.6 * x.abs().sqrt() + 0.15).square()) < 0.11
shapes = torch.stack([r < 0.33, cross, (r < 0.4) & (r > 0.26), heart]).double()
shapes = shapes / shapes.sum((1, 2), keepdim=True)

s = torch.linspace(0, 1, 5, dtype=torch.float64)
down, right = (part.flatten() for part in torch.meshgrid(s, s, indexing="ij"))
weights = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)

start = perf_counter()
square = barycenter(shapes, weights, Grid(SIDE, SIDE), EPS, tol=1e-4)
print(square, f"{perf_counter() - start:.1f} s", sep="\n")

figure, axes = plt.subplots(5, 5, figsize=(7, 7), layout="constrained")
for ax, image in zip(axes.flat, square.image, strict=True):
    ax.imshow(-image.numpy(), cmap="gray")
    ax.set_axis_off()
plt.show()

# %%
# With and without the blur
# -------------------------
#
# Entropy blurs by about the root of ``eps``. The debiased barycenter minimises Sinkhorn divergences, of which both
# self-terms take the blur away; that of one measure is the measure itself.

equal = [0.25] * 4
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
panels = {"mean of the pixels": shapes.mean(0)}
for eps in (1e-2, 1e-3):
    panels[f"entropic, eps {eps:g}"] = entropic_barycenter(shapes, equal, Grid(SIDE, SIDE), eps).image
panels["debiased, eps 0.001"] = square.image[12]
for ax, (title, image) in zip(axes, panels.items(), strict=True):
    ax.imshow(-image.numpy(), cmap="gray")
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
plt.show()

# %%
# Means of digits
# ---------------
#
# Ten digits of each class: all ten barycenters in one call, below the means of the pixels. To take the blur away
# is a deconvolution, which leaves stripes where the digits differ most; ``entropic_barycenter`` has none. Without
# MNIST in the data folder the digits are those of scikit-learn, scaled up from 8 x 8 pixels.


def read(name: str, offset: int) -> np.ndarray:
    packed = (folder / f"train-{name}-ubyte.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), np.uint8, offset=offset)


folder = Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot")) / "mnist"
if folder.is_dir():
    digits, labels = read("images-idx3", 16).reshape(-1, 28, 28)[:500], read("labels-idx1", 8)[:500]
    digits, labels = torch.from_numpy(digits / 255), torch.from_numpy(labels.astype(int))
else:
    digits, labels = load_digits(return_X_y=True)
    digits, labels = torch.from_numpy(digits).reshape(-1, 1, 8, 8), torch.from_numpy(labels)
    digits = torch.nn.functional.interpolate(digits, size=(28, 28), mode="bilinear")[:, 0]
classes = torch.stack([digits[labels == k][:10] for k in range(10)])
classes = classes / classes.sum((2, 3), keepdim=True)
start = perf_counter()
means = barycenter(classes, torch.full((10, 10), 1 / 10, dtype=torch.float64), Grid(28, 28), 3e-3, tol=1e-3)
print(means, f"{perf_counter() - start:.1f} s", sep="\n")

figure, axes = plt.subplots(2, 10, figsize=(10, 2.2), layout="constrained")
for column, pixels, middle in zip(axes.T, classes.mean(1), means.image, strict=True):
    for ax, image in zip(column, (pixels, middle), strict=True):
        ax.imshow(-image.numpy(), cmap="gray")
        ax.set_axis_off()
plt.show()

# %%
# Three dimensions
# ----------------
#
# The same call on a grid with three axes: a ball becomes a ring in five steps. Shown is the mass along one axis.

DEPTH = 64
t = torch.linspace(-0.5, 0.5, DEPTH, dtype=torch.float64)
z, y, x = torch.meshgrid(t, t, t, indexing="ij")
ball = (x.square() + y.square() + z.square()) < 0.3**2
ring = (((x.square() + y.square()).sqrt() - 0.32).square() + z.square()) < 0.1**2
solids = torch.stack([ball, ring]).double()
solids = solids / solids.sum((1, 2, 3), keepdim=True)
share = torch.linspace(0, 1, 5, dtype=torch.float64)
start = perf_counter()
steps = barycenter(solids, torch.stack([1 - share, share], -1), Grid(DEPTH, DEPTH, DEPTH), 1e-3, tol=1e-3)
print(steps, f"{perf_counter() - start:.1f} s", sep="\n")

figure, axes = plt.subplots(2, 5, figsize=(10, 4), layout="constrained")
for column, solid in zip(axes.T, steps.image, strict=True):
    for ax, axis in zip(column, (0, 1), strict=True):
        ax.imshow(-solid.sum(axis).numpy(), cmap="gray")
        ax.set_axis_off()
plt.show()

# %%
# Clouds
# ------
#
# Where there is no grid, the points of the barycenter move: here 150 points between two clouds of other sizes.

generator = torch.Generator().manual_seed(0)
angle = 6.2832 * torch.rand(300, generator=generator, dtype=torch.float64)
circle = torch.stack([angle.cos(), angle.sin()], -1)
cloud = 0.25 * torch.randn(200, 2, generator=generator, dtype=torch.float64) + torch.tensor([3.0, 0.0])
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for points, colour in ((circle, "tab:blue"), (cloud, "tab:orange")):
    ax.scatter(*points.T, s=4, c=colour)
for share in (0.25, 0.5, 0.75):
    found = free_barycenter([circle, cloud], [1 - share, share], 150, eps=0.02, tol=2e-2)
    ax.scatter(*found.points.T, s=4, c="black")
    print(found)
ax.set_aspect("equal")
plt.show()
