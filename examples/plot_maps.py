"""
Continuous maps between samples
===============================

Sometimes a measure is not a list of weights but a source of samples, and what is wanted is a map: a function
that sends *any* point of the source to the target, also points that were not there when it was made. For the
cost :math:`|x - y|^2 / 2` that map is the gradient of a convex function (Brenier's theorem), and a convex
function is what ``metaot`` fits: two input-convex networks, one for each direction.
"""

import matplotlib.pyplot as plt
import torch

import metaot
from metaot.amortize.maps import BuresStart

# %%
# Samples
# -------
#
# A Gaussian, and a bent one. ``SampleProblem`` takes samples of both, with any number of samples on each side.

generator = torch.Generator().manual_seed(0)


def gaussian(count: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=generator)


def banana(count: int) -> torch.Tensor:
    along, across = gaussian(count).unbind(-1)
    return torch.stack([1.3 * along, 0.7 * along**2 + 0.35 * across - 1], -1)


problem = metaot.SampleProblem(gaussian(512), banana(512))

# %%
# The map
# -------
#
# ``GaussNewton`` fits both networks from scratch in some tens of steps; ``linear=True`` starts at the map
# between the Gaussians with the same means and covariances. (A trained model predicts the networks in one pass:
# the next page of this kind, :doc:`plot_recolour`, does so for colours.) ``value`` is a lower bound of half the
# squared distance between the samples, and rises as the fit gets better.

linear = BuresStart().predict(problem)
solution = metaot.solve(problem, solver=metaot.GaussNewton(30, linear=True, record=(0, 5, 30)), tol=1e-3)
print(f"dual value after 0, 5 and 30 steps: {[round(value, 4) for value in solution.history.tolist()]}")
pair = solution.pair

# %%
# ``push`` sends points forth and ``pull`` back. The points here are new: they were not among the samples.

fresh, other = gaussian(1500), banana(1500)
figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), sharex=True, sharey=True, layout="constrained")
shown = {
    "source, new samples": fresh,
    "linear map": linear.push(fresh),
    "pushed": pair.push(fresh),
    "target, pulled back": pair.pull(other),
}
colours = torch.atan2(fresh[:, 1], fresh[:, 0])
for ax, (title, cloud) in zip(axes, shown.items(), strict=True):
    if title == "pushed":
        ax.scatter(*other.T.numpy(), s=3, color="0.85", label="target")
        ax.legend(loc="lower right")
    kind = {"color": "tab:grey"} if "pulled" in title else {"c": colours, "cmap": "hsv"}
    ax.scatter(*cloud.detach().T.numpy(), s=3, **kind)
    ax.set(title=title, aspect="equal", xlim=(-4.5, 4.5), ylim=(-4, 4))
plt.show()

# %%
# A gradient of a convex function
# -------------------------------
#
# Left, a grid before and after the map: lines are bent, but never cross. Right, the convex function whose
# gradient it is, and points with their images.

lines = torch.linspace(-2.2, 2.2, 23)
across = torch.linspace(-2.2, 2.2, 200)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for value in lines:
    for line in (torch.stack([across, value.expand(200)], -1), torch.stack([value.expand(200), across], -1)):
        left.plot(*pair.push(line).T.numpy(), color="tab:blue", linewidth=0.6)
left.scatter(*other[:400].T.numpy(), s=3, color="tab:orange", zorder=3)
left.set(title="a square grid, pushed", aspect="equal")
mesh = torch.stack(torch.meshgrid(across, across, indexing="xy"), -1)
heights = pair.phi(mesh.flatten(0, 1)).reshape(200, 200)
contours = right.contour(across.numpy(), across.numpy(), heights.numpy(), levels=20, cmap="viridis")
start = fresh[:40]
end = pair.push(start)
right.plot(*torch.stack([start, end]).movedim(-1, 0).numpy(), color="tab:red", linewidth=0.7)
right.scatter(*end.T.numpy(), s=8, color="tab:red")
right.set(title="the convex potential, and some moves", aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
right.clabel(contours, fontsize=7)
plt.show()
