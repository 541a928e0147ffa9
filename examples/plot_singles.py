"""
Couples, singles and what a marriage is worth
=============================================

Who marries whom, and who does not, tells how much a couple is worth beyond being single (Choo and Siow, 2006).
This is unbalanced transport backwards: some people stay alone, and how many is a part of what is observed.
"""

# %%
# Marriages and singles in the United States, 1971 and 1972, by the ages of both, as published with the paper.
# Without the folder `matching` the page matches people of its own, by a surplus that it makes up.

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from metaot import Problem, solve
from metaot.inverse import learn_surplus, surplus

AGES = torch.arange(16.0, 76.0, dtype=torch.float64)


def made_up():
    """Match a population with itself: a single with the own type, at no cost, and a couple in both orders."""
    people = torch.cat([2e6 * (-AGES / 30).exp(), 2e6 * (-AGES / 36).exp()])
    worth = -7 - 0.03 * (AGES[:, None] - AGES - 2).abs() ** 1.5 - 0.05 * (AGES[:, None] - 25).clamp_min(0)
    cost = torch.full((120, 120), torch.inf, dtype=torch.float64)
    cost[:60, 60:], cost[60:, :60] = -worth / 2, -worth.T / 2
    cost.fill_diagonal_(0.0)
    weights = people / people.sum()
    plan = people.sum() * solve(Problem(weights, weights, cost, 1.0), tol=1e-9).plan()
    return plan[:60, 60:], plan.diagonal()[:60], plan.diagonal()[60:]


folder = Path(os.environ.get("METAOT_DATA", Path.home() / ".cache/metaot")) / "matching"
if folder.is_dir():
    couples = torch.from_numpy(np.loadtxt(folder / "choo_siow_marriages.txt"))
    men, women = torch.from_numpy(np.loadtxt(folder / "choo_siow_singles.txt")).T
else:
    couples, men, women = made_up()
print(f"{couples.sum():.0f} couples, {men.sum():.0f} single men, {women.sum():.0f} single women")

# %%
# Where people choose by what a partner is worth and by a taste of their own, the surplus of two ages is
# log(couples^2 / (single men x single women)). Counts of zero say nothing about it, and small ones little. So
# the parameters of a few features are learned, by maximum likelihood: broken lines in his age, in hers, and in how
# much older he is, which change with age.


def hats(z, knots):
    """Return a function for each knot but the first: one there, zero at the others, linear between them."""
    at = torch.tensor(knots, dtype=z.dtype)
    left = ((z[..., None] - at[:-1]) / at.diff()).clamp(0, 1)
    right = torch.cat([left[..., 1:], torch.zeros_like(left[..., :1])], -1)
    return (left - right).unbind(-1)


his, hers = AGES[:, None].expand(60, 60), AGES.expand(60, 60)
older, both = his - hers, (his + hers - 90) / 30
features = [torch.ones(60, 60), *hats(his, (16, 18, 20, 23, 27, 35, 50, 65, 76))]
features += hats(hers, (16, 18, 20, 23, 27, 35, 50, 65, 76))
apart = hats(older, (-60, -15, -6, -2, 0, 3, 7, 15, 60))
features += [*apart[:-1], *(part * both for part in apart)]  # the slope of older is that of his less that of hers
found = learn_surplus(couples, men, women, features=features)
print(found)

# %%
# The surplus by the ages of both: of the counts, and as it was learned. It is highest for young couples, and falls
# with the distance between ages, more slowly where both are older.

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
pictures = {"log(couples² / singles²)": surplus(couples, men, women), "learned surplus": found.surplus}
for axis, (title, values) in zip(axes, pictures.items(), strict=False):
    shown = values.where(values.isfinite(), torch.nan).numpy()
    image = axis.imshow(shown, origin="lower", extent=(16, 76, 16, 76), vmin=-26, vmax=-6)
    axis.contour(AGES.numpy(), AGES.numpy(), found.surplus.numpy(), levels=6, colors="white", linewidths=0.5)
    axis.set(title=title, xlabel="her age", ylabel="his age")
figure.colorbar(image, ax=axes[:2], shrink=0.8)

observed, predicted = (couples.sum(1), couples.sum(0)), (found.couples.sum(1), found.couples.sum(0))
for k, (name, color) in enumerate((("men", "tab:blue"), ("women", "tab:red"))):
    alone = found.singles[k]
    axes[2].plot(
        AGES.numpy(), (observed[k] / (observed[k] + (men, women)[k])).numpy(), ".", color=color, label=name
    )
    axes[2].plot(AGES.numpy(), (predicted[k] / (predicted[k] + alone)).numpy(), color=color, lw=1)
axes[2].set(title="share that marries", xlabel="age", yscale="log", ylim=(1e-4, 0.5))
axes[2].legend()
plt.show()

# %%
# The estimate is a model, and answers what was not observed: who marries if there are fewer men of some ages? The
# surplus stays, the marginals change; the same transport problem is solved again, from the potentials of before.

changed = (couples.sum(1) + men, couples.sum(0) + women)
changed[0][4:15] *= 0.5
weights = torch.cat(changed) / torch.cat(changed).sum()
before = found.estimate.solution
after = solve(Problem(weights, weights, found.estimate.geometry, 1.0), init=before, tol=1e-8)
share = torch.cat(changed).sum() * after.plan()[:60, 60:].sum(0) / changed[1]
now = predicted[1] / changed[1]
for age in (18, 22, 26, 30, 40):
    print(f"women of {age}: {now[age - 16]:.3f} marry; with half of the men of 20 to 30, {share[age - 16]:.3f}")
