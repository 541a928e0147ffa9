"""
Train on your own problems and their costs
==========================================

On :doc:`the page before <plot_own_problems>` quantities change and the ways do not. Here each day has travel
times of its own, so that the model has to read them. What is needed are three arrays: supply, demand, and a cost
matrix for each day. Training begins with the shipped model ``roads``, so that a few steps are enough.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import metaot
from metaot.cli import main
from metaot.data import write_problems

# %%
# The past
# --------
#
# Forty warehouses and two hundred shops. A way takes longer where there is traffic, around six places, more or
# less on each day, and each way has a delay by chance. Yours would come from a table, or from a route planner.

rng = np.random.default_rng(0)
WAREHOUSES, SHOPS = 40, 200
warehouses, shops, places = (rng.random((count, 2)) for count in (WAREHOUSES, SHOPS, 6))
distances = np.linalg.norm(warehouses[:, None] - shops, axis=-1)
middles = (warehouses[:, None] + shops) / 2
nearness = np.exp(-(np.linalg.norm(middles[:, :, None] - places, axis=-1) ** 2) / 0.045)


def past(days: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return supply, demand, and travel times from each warehouse to each shop, for each day."""
    supply, demand = rng.gamma(0.7, size=(days, WAREHOUSES)), rng.gamma(0.7, size=(days, SHOPS))
    traffic = np.einsum("ijk,dk->dij", nearness, rng.gamma(1.0, size=(days, 6)))
    times = distances * (1 + traffic) * np.exp(0.1 * rng.normal(size=(days, WAREHOUSES, SHOPS)))
    return supply / supply.sum(1, keepdims=True), demand / demand.sum(1, keepdims=True), times


# %%
# Ten lines
# ---------
#
# All that is particular to you is in the first three. ``main`` is what the commands run; in a terminal::
#
#     python train.py costs --set data.path=days --from roads
#     metaot evaluate runs/costs
#
# Training takes minutes as it is; here it gets a few seconds.

supply, demand, times = past(400)
folder = Path(tempfile.mkdtemp())
eps = 0.01 * times.mean()
write_problems(folder / "days", supply, demand, C=times, eps=eps)
settings = ["--set", f"data.path={folder / 'days'}", "--set", "steps=100", "--set", "warmup=10"]
main(["train", "costs", "--from", "roads", "--out", str(folder / "run"), "--quiet", *settings])
main(["evaluate", str(folder / "run"), "--instances", "20"])
model = metaot.load(folder / "run")
supply, demand, times = (torch.from_numpy(rows) for rows in past(50))  # new days
problem = metaot.Problem(supply, demand, metaot.Dense(times), eps)
solution = metaot.solve(problem, init=model)
print(model)
print(solution)

# %%
# What it saves
# -------------
#
# The table above has it for days that were held out, beside starts that need no model: steps, time, how much of
# the time it takes to find a start, and how far the start's dual value is from the optimum. Look at the time:
# forty warehouses are a small problem, and to find a start takes about as long as to solve it from zeros. The more
# atoms and the smaller ``eps``, the more a step costs and the more of them are saved; see :doc:`plot_roads`.
#
# Steps to 1e-3 on new days, from zeros and from the model, by the algorithm of the books and by that with
# acceleration:

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for ax, accelerated in zip(axes, (False, True), strict=True):
    solver = metaot.Sinkhorn(accelerated=accelerated)
    zeros, ours = (
        metaot.solve(problem, init=init, solver=solver, tol=1e-3, max_steps=20000).steps for init in (None, model)
    )
    ax.scatter(zeros, ours, s=15, color="tab:blue")
    most = 1.05 * float(zeros.max())
    ax.plot([0, most], [0, most], color="k", linewidth=0.5)
    name = "accelerated Sinkhorn" if accelerated else "plain Sinkhorn"
    ax.set(xlabel="steps from zeros", ylabel="steps from the model", title=name, xlim=(0, most), ylim=(0, most))
plt.show()

# %%
# What it knows, and what not
# ---------------------------
#
# A model of this kind knows no place: it takes any numbers of suppliers and customers, in any order and in any
# unit. What it was trained for is how much costs differ, in units of ``eps``, as its name says above; it refuses
# problems that differ much more or less. A pair that is forbidden has the cost ``inf``. Where the matrices do not
# fit on a disk, ``write_problems`` takes ``parameters`` of each day and a function that makes a matrix of them.
