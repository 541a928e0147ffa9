"""
Train on your own problems
==========================

Your problems have a pattern: the same places, and quantities that follow seasons, prices and each other. A
model that has seen some thousands of them predicts the next one. All it needs are arrays. Nothing is labelled,
and no solver runs while it trains.
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
# Thirty warehouses and sixty shops in a town of one by one. Shops sell in groups of their own, with a weekly
# rhythm and noise; warehouses are filled in proportion to their size, and now and then one is shut.

rng = np.random.default_rng(0)
DAYS, WAREHOUSES, SHOPS, EPS = 1000, 30, 60, 0.02
warehouses, shops = rng.random((WAREHOUSES, 2)), rng.random((SHOPS, 2))
groups = rng.integers(5, size=SHOPS)


def past(days: int) -> tuple[np.ndarray, np.ndarray]:
    """Return supply and demand, a row for each day, with mass one."""
    weekday = np.arange(days)[:, None] % 7
    rhythm = 1.5 + np.sin(2 * np.pi * (weekday + groups) / 7)
    level = np.exp(0.6 * rng.normal(size=(days, 5)))[:, groups]
    demand = rhythm * level * np.exp(0.3 * rng.normal(size=(days, SHOPS)))
    open_today = rng.random((days, WAREHOUSES)) > 0.1
    supply = open_today * np.exp(0.5 * rng.normal(size=(days, WAREHOUSES)))
    return supply / supply.sum(1, keepdims=True), demand / demand.sum(1, keepdims=True)


supply, demand = past(DAYS)
folder = Path(tempfile.mkdtemp())
write_problems(folder / "days", supply, demand, x=warehouses, y=shops, cost="euclidean", eps=EPS)

# %%
# Training
# --------
#
# In a terminal::
#
#     python train.py problems --set data.path=days
#
# It takes minutes as it is; here it gets a few seconds. ``main`` is what the command runs. Curves and pictures
# go to TensorBoard (``tensorboard --logdir runs/problems``), the checkpoint to ``--out``.

settings = {"data.path": folder / "days", "data.batch": 64, "steps": 150, "warmup": 20, "validate_every": 1000}
options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
main(["train", "problems", "--out", str(folder / "run"), "--quiet", *options])

# %%
# New days
# --------
#
# A model knows its places and its range of ``eps``: take both from it. Problems with others are refused.

model = metaot.load(folder / "run")
a, b = (torch.from_numpy(weights) for weights in past(100))
problem = metaot.Problem(a, b, model.geometry, EPS)
plain = metaot.Sinkhorn(accelerated=False)
steps = {
    name: metaot.solve(problem, init=init, solver=plain, tol=1e-3, max_steps=5000).steps.numpy()
    for name, init in (("zeros", None), ("the model", model))
}
for name, counts in steps.items():
    print(f"plain Sinkhorn from {name}: {counts.mean():.0f} steps on average, {counts.max()} at most")

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
solution = metaot.solve(problem[0], init=model)
P = solution.plan().numpy()
for i, j in zip(*np.nonzero(P > 1e-3), strict=True):
    axes[0].plot(*np.stack([warehouses[i], shops[j]]).T, color="tab:blue", linewidth=60 * P[i, j], alpha=0.6)
axes[0].scatter(*shops.T, s=1000 * b[0].numpy(), color="tab:orange", label="shops", zorder=3)
axes[0].scatter(*warehouses.T, s=1000 * a[0].numpy(), color="k", marker="s", label="warehouses", zorder=3)
axes[0].set(title="deliveries of a day", xlabel="km", ylabel="km", aspect="equal")
axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
for (name, counts), colour in zip(steps.items(), ("0.6", "tab:blue"), strict=True):
    axes[1].step(np.sort(counts), np.linspace(0, 1, len(counts)), where="post", color=colour, label=f"from {name}")
axes[1].set(
    xlabel="plain Sinkhorn steps to an L1 error of 1e-3", ylabel="share of days that are done", xlim=(0, None)
)
axes[1].legend()
plt.show()

# %%
# Is it worth it?
# ---------------
#
# ``metaot evaluate`` compares the model with starts that need no training, in steps and in time, on days that
# were held out. Look at the time: on a small problem such as this one, ``solve`` from zeros is done before a
# network has been evaluated. Models pay where steps cost more, see :doc:`plot_batches`.
#
# To go on later: ``--resume`` continues a run bit for bit, ``--from`` begins with the weights of a checkpoint,
# on newer problems. Where costs change as well, see :doc:`plot_own_costs`.
