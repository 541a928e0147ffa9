"""
Recolour a picture
==================

The colours of a picture are a cloud of points in a cube. A transport map between two such clouds gives one
picture the palette of another one, and moves each colour as little as it can. The shipped model ``palette``
predicts that map from the pixels of both pictures, in one pass.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

import metaot
from metaot.gaussian import linear_maps
from metaot.pictures import moved, palette
from metaot.tools.recolor import palette_maps

# %%
# Two pictures
# ------------
#
# Arrays of bytes, height x width x 3, here those that come with scikit-learn. ``palette`` draws some thousands
# of their pixels, as colours between 0 and 1.

temple, flower = load_sample_images().images
x, y = palette(temple), palette(flower)

# %%
# The map
# -------
#
# The model returns two maps, forth and back. ``steps`` of Gauss-Newton improve a prediction, and are never
# worse. ``linear`` is the closed form between Gaussians, without a network. ``moved`` applies a map to all
# pixels.

model = metaot.load("palette")
maps = {
    "linear": linear_maps(x, y),
    "predicted": palette_maps(x, y, model),
    "predicted, 5 steps": palette_maps(x, y, model, steps=5),
}
pictures = {"source": temple, "target": flower}
pictures |= {name: moved(temple, both.push) for name, both in maps.items()}
pictures["back: target as the source"] = moved(flower, maps["predicted"].pull)

figure, axes = plt.subplots(2, 3, figsize=(11, 5.2), layout="constrained")
for ax, (name, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture)
    ax.set_title(name)
    ax.axis("off")
plt.show()

# %%
# The clouds
# ----------
#
# What the map does to the colours, seen from the side: red against blue, each point in its own colour.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True, layout="constrained")
clouds = {"source": x, "source, moved": maps["predicted"].push(x).clip(0, 1), "target": y}
for ax, (name, cloud) in zip(axes, clouds.items(), strict=True):
    some = cloud[:1500]
    ax.scatter(some[:, 0], some[:, 2], c=some, s=6)
    ax.set(title=name, xlabel="red", aspect="equal")
axes[0].set_ylabel("blue")
plt.show()

# %%
# How far is it still?
# --------------------
#
# Distances between quantiles of both clouds along random directions: what is left after each map.

directions = np.random.default_rng(0).normal(size=(3, 64))
directions /= np.linalg.norm(directions, axis=0)


def sliced_distance(x: np.ndarray, y: np.ndarray) -> float:
    s, t = (np.quantile(z @ directions, np.linspace(0.01, 0.99, 99), axis=0) for z in (x, y))
    return float(np.sqrt(((s - t) ** 2).mean()))


for name, both in maps.items():
    left = sliced_distance(both.push(x).clip(0, 1), y) / sliced_distance(x, y)
    print(f"{name}: {left:.3f} of the sliced distance is left")

# %%
# From a terminal, without writing Python::
#
#     metaot recolor temple.jpg flower.jpg -o out.png --strip
#
# That command does not even load torch: onnxruntime evaluates the network. ``--steps`` refines, ``--strip``
# writes source, target, result and the reverse side by side, ``--model linear`` does without a network.
# Transparency is kept, grey and 16-bit pictures are read.
#
# To train on your own pictures (a folder, split by picture), see :doc:`/howto/train`.
