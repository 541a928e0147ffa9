"""
Batches of images: what a warm start saves
==========================================

All problems of a batch are solved at once, and each has its own error, its own number of steps and its own
answer to whether it has converged. This page solves many pairs of letters from nothing and from a prediction,
and counts.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

import metaot

# %%
# A batch of problems
# -------------------
#
# Weights are ``(batch, atoms)``; one grid is shared by all. ``eps`` may be one number, or one for each problem.

SIZE, COUNT, EPS = 64, 48, 1e-3
FONT = ImageFont.truetype(findfont("DejaVu Sans:bold"), 56)


def letter(text: str) -> np.ndarray:
    """Draw a letter, white on black, with mass one."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), text, 255, FONT, anchor="mm")
    pixels = np.asarray(image, dtype=np.float64)
    return pixels / pixels.sum()


letters = torch.from_numpy(np.stack([letter(text).flatten() for text in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]))
pairs = torch.stack([torch.randperm(26, generator=torch.Generator().manual_seed(k))[:2] for k in range(COUNT)])
problem = metaot.Problem(letters[pairs[:, 0]], letters[pairs[:, 1]], metaot.Grid(SIZE, SIZE), eps=EPS)
model = metaot.load("universal")

# %%
# Steps
# -----
#
# Three starts, each refined by plain Sinkhorn, the algorithm of the books, and then by what ``solve`` chooses
# itself: Sinkhorn with Anderson acceleration, and Newton where that takes less time. ``tol`` is 1e-3 here.

starts = {"zeros": None, "model": model}
solvers = {"plain Sinkhorn": metaot.Sinkhorn(accelerated=False), "chosen by solve": None}
steps = {
    (solver, start): metaot.solve(problem, init=init, solver=chosen, tol=1e-3, max_steps=2000).steps
    for solver, chosen in solvers.items()
    for start, init in starts.items()
}

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for ax, solver in zip(axes, solvers, strict=True):
    for start, colour in zip(starts, ("0.6", "tab:blue"), strict=True):
        counts = np.sort(steps[solver, start].numpy())
        ax.step(counts, np.arange(1, COUNT + 1) / COUNT, where="post", color=colour, label=f"from {start}")
        print(f"{solver}, from {start}: {counts.mean():.1f} steps on average, {counts.max()} at most")
    ax.set(xlabel="steps", ylabel="share of the problems that are done", title=solver, xlim=(0, None), ylim=(0, 1))
    ax.legend(loc="lower right")
plt.show()

# %%
# Errors
# ------
#
# The same, seen the other way: how wrong the marginals are after a number of steps. The band holds nine
# problems in ten. Counting starts after the prediction, which contains Sinkhorn steps of its own:
# ``model.passes`` of them.

counts = np.array([0, 1, 3, 10, 30, 100, 300])
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for start, colour in zip(starts, ("0.6", "tab:blue"), strict=True):
    potentials = None if starts[start] is None else model.predict(problem)
    errors = np.stack(
        [
            metaot.solve(
                problem,
                init=potentials,
                solver=metaot.Sinkhorn(accelerated=False),
                tol=1e-12,
                max_steps=int(count),
            ).error
            for count in counts
        ]
    )
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95], axis=1)
    ax.plot(counts + 1, middle, color=colour, label=f"from {start}")
    ax.fill_between(counts + 1, low, high, color=colour, alpha=0.25, linewidth=0)
ax.set(xscale="log", yscale="log", xlabel="1 + plain Sinkhorn steps", ylabel="L1 error of the marginals")
ax.legend()
plt.show()

# %%
# Time
# ----
#
# Steps are not time: evaluating the network takes as long as some steps. What counts is measured here, on the
# machine that built this page, the network included. On a small grid, or at a large ``eps``, the few steps from
# zeros take less time than a prediction, and the answer is to start from zeros. Where the line is,
# :doc:`/benchmarks/index` says.

for size, eps in ((28, 1e-2), (64, 1e-3)):
    step = SIZE // size
    images = letters.reshape(-1, SIZE, SIZE)[:, ::step, ::step][:, :size, :size].flatten(1)
    images = images / images.sum(-1, keepdim=True)
    small = metaot.Problem(images[pairs[:, 0]], images[pairs[:, 1]], metaot.Grid(size, size), eps=eps)
    spent = {}
    for start, init in starts.items():
        metaot.solve(small, init=init, tol=1e-3)  # the first call of a kind takes longer
        begin = time.perf_counter()
        metaot.solve(small, init=init, tol=1e-3)
        spent[start] = time.perf_counter() - begin
    share = spent["model"] / spent["zeros"]
    print(f"{COUNT} pairs of {size} x {size}, eps = {eps:g}: from the model {share:.2f} of the time from zeros")

# %%
# What a start can cost
# ---------------------
#
# A start that is not better than zeros is replaced by zeros, each problem for itself. A start made of noise
# shows it: no problem takes more than a step longer.

noise = torch.randn(problem.a.shape, dtype=problem.a.dtype, generator=torch.Generator().manual_seed(0))
bad = metaot.DualPotentials(noise, torch.zeros_like(noise))
cold = metaot.solve(problem, tol=1e-3)
hindered = metaot.solve(problem, init=bad, tol=1e-3)
print(f"steps lost to a start of noise, at most: {int((hindered.steps - cold.steps).max())}")
