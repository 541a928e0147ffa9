"""
Many problems
=============

Millions of problems are batches of problems. A predictor holds no state, may be shared by threads and may be
sent to other processes; so a worker keeps one, and maps batches of weights to what is asked for. This page does
it for all pairs of the letters, in one process; at the end, the same worker under Ray Data.
"""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot

SIZE, EPS, BATCH = 32, 2e-3, 65
FONT = ImageFont.truetype(findfont("DejaVu Sans"), 26)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter(text: str) -> np.ndarray:
    """Draw a letter, white on black, with mass one, its centre of mass in the middle."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, 255, FONT, anchor="mm")
    pixels = np.asarray(image, dtype=np.float64)
    return pixels / pixels.sum()


images = torch.from_numpy(np.stack([letter(text).flatten() for text in ALPHABET]))

# %%
# A worker
# --------
#
# What it reads are the numbers of pairs, which is little to send; what it returns is a number for each: here
# the lower bound of the transport cost, which holds for a bare prediction too.


class Worker:
    """Keeps the images and the model; maps a batch of pairs to costs."""

    def __init__(self, images: torch.Tensor) -> None:
        self.model, self.images = metaot.load("universal"), images

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        a, b = self.images[batch["source"]], self.images[batch["target"]]
        problem = metaot.Problem(a, b, metaot.Grid(SIZE, SIZE), EPS)
        bounds = metaot.solve(problem, init=self.model, tol=1e-2).bounds()
        return {**batch, "lower": bounds.lower.numpy(), "upper": bounds.upper.numpy()}


rows, columns = np.triu_indices(len(ALPHABET), 1)
batches = [{"source": rows[k : k + BATCH], "target": columns[k : k + BATCH]} for k in range(0, len(rows), BATCH)]
worker = Worker(images)

# %%
# In one process
# --------------
#
# Compiled steps and onnxruntime leave Python's lock alone, so threads work side by side. With several workers
# on a machine, give each one thread: ``torch.set_num_threads(1)``, or ``OMP_NUM_THREADS=1`` before Python
# starts, see :doc:`/howto/threads`.

with ThreadPoolExecutor(2) as pool:
    results = list(pool.map(worker, batches))
lower, upper = (np.concatenate([result[name] for result in results]) for name in ("lower", "upper"))
print(f"{len(rows)} pairs; the bounds of the cost are within {np.median((upper - lower) / upper):.1%}, median")

# %%
# What they say
# -------------
#
# The matrix of distances, and the letters in the plane such that distances are kept as well as can be
# (classical scaling). Letters that look alike are neighbours.

squared = np.zeros((len(ALPHABET),) * 2)
squared[rows, columns] = squared[columns, rows] = (lower + upper) / 2
centring = np.eye(len(ALPHABET)) - 1 / len(ALPHABET)
values, vectors = np.linalg.eigh(-0.5 * centring @ squared @ centring)
plane = vectors[:, -2:] * np.sqrt(values[-2:])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
shown = left.imshow(np.sqrt(squared), cmap="viridis")
left.set_xticks(range(26), ALPHABET, fontsize=7)
left.set_yticks(range(26), ALPHABET, fontsize=7)
left.set_title("transport distance, in sides of the image")
figure.colorbar(shown, ax=left)
right.scatter(*plane.T, s=0)
for text, place in zip(ALPHABET, plane, strict=True):
    right.text(*place, text, ha="center", va="center", fontsize=13)
right.set(title="the letters by their distances", aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# With Ray Data
# -------------
#
# The same class, on many machines. Problems come from Parquet files, as columns of weights or, as here, as
# numbers::
#
#     table = ray.data.read_parquet("pairs/")
#     costs = table.map_batches(
#         Worker, fn_constructor_args=(images,), batch_size=512, batch_format="numpy",
#         compute=ray.data.ActorPoolStrategy(size=workers),
#     )
#     costs.write_parquet("costs/")
#
# With an exported model the workers need no torch. This is what predicts in the script
# ``examples/serving/ray_batch.py``, which can be stopped and started again (:doc:`/howto/many`):
#
# .. literalinclude:: /../examples/serving/ray_batch.py
#    :language: python
#    :pyobject: Predict
