"""
Who marries whom
================

Couples are pairs of points: the traits of one and of the other. Inverse optimal transport finds the cost of which
such pairs are the plan. Its negative is what economists call the affinity: entry (k, l) says how much trait k of
one side and trait l of the other attract each other (Dupuy and Galichon, 2014).
"""

# %%
# The couples
# -----------
#
# Those of Dupuy and Galichon, where the data folder has them; otherwise couples that are drawn from a known
# affinity: the plan between men and women says who is likely to marry whom, and each man draws one woman.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from metaot import Dense, Problem, solve
from metaot.inverse import L1, cost_path, learn_cost

torch.manual_seed(0)
folder = Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot")) / "matching"
traits = [
    "education",
    "height",
    "BMI",
    "health",
    "conscientious",
    "extravert",
    "agreeable",
    "stable",
    "autonomous",
]
traits.append("takes risks")
if folder.is_dir():
    sides = (
        np.loadtxt(folder / f"personality_{side}.csv", delimiter=",", skiprows=1) for side in ("men", "women")
    )
    x, y = ((z - z.mean(0)) / z.std(0) for z in sides)
else:
    traits, count = traits[:5], 700
    truth = torch.diag(torch.tensor([0.6, 0.3, 0.2, 0.0, 0.0], dtype=torch.float64))
    truth[0, 3] = -0.25
    x, y = torch.randn(2, count, 5, dtype=torch.float64)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    plan = solve(Problem(weights, weights, Dense(-x @ truth @ y.T), 1.0)).plan()
    y = y[torch.multinomial(plan, 1)[:, 0]]
print(f"{len(x)} couples, {len(traits)} traits of each")

# %%
# The affinity
# ------------
#
# Only the ratio of cost and eps is known, so eps is one. Standard errors say which entries are more than chance.

found = learn_cost(x, y, eps=1.0)
print(found)
affinity, errors = -found.theta, found.standard_errors

figure, panel = plt.subplots(figsize=(6.4, 5), layout="constrained")
limit = float(affinity.abs().max())
image = panel.imshow(affinity.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
for k, l in (affinity.abs() > 2 * errors).nonzero().tolist():
    color = "white" if abs(affinity[k, l]) > 0.6 * limit else "black"
    panel.text(l, k, f"{affinity[k, l]:.2f}", ha="center", va="center", fontsize=7, color=color)
panel.set(title="affinity; numbers: above two errors", ylabel="of men", xlabel="of women")
panel.set_xticks(range(len(traits)), traits, rotation=90)
panel.set_yticks(range(len(traits)), traits)
figure.colorbar(image, ax=panel)

# %%
# Few numbers
# -----------
#
# With an l1 penalty entries enter one after the other. The certificate of each support is printed beside it: where
# it is below one, more couples would find the same support.

lams = np.geomspace(0.3, 0.02, 8)
path = cost_path(x, y, [L1(lam) for lam in lams], eps=1.0)
for lam, one in zip(lams, path, strict=True):
    print(f"lam {lam:.3f}: {int((one.theta != 0).sum()):3d} entries; {one.certificate}")

entries = -torch.stack([one.theta.flatten() for one in path])
figure, panel = plt.subplots(figsize=(8.8, 4.4), layout="constrained")
order = entries[-1].abs().argsort(descending=True)
for rank, entry in enumerate(order.tolist()):
    k, l = divmod(entry, len(traits))
    label = f"{traits[k]} and {traits[l]}" if rank < 5 else None
    panel.plot(
        lams, entries[:, entry].numpy(), label=label, color=None if rank < 5 else "0.8", zorder=2 - (rank >= 5)
    )
panel.set(xscale="log", xlabel="lam", title="affinity under an l1 penalty")
panel.set_xticks(lams[::2], [f"{lam:.2f}" for lam in lams[::2]])
panel.minorticks_off()
panel.invert_xaxis()
panel.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
# Of how many kinds is attraction?
# --------------------------------
#
# The singular values of the affinity, in units of both sides' deviations, say how much one index of his traits and
# one of hers explain; and the rank test of Kleibergen and Paap (2006) how many such pairs of indices there are at
# least.

print("shares:", [f"{share:.2f}" for share in found.saliency.shares[:5].tolist()])
for rank in range(4):
    print(f"rank {rank}: p = {found.rank_test(rank).p_value:.2g}")
