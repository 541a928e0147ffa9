"""
A graph behind a coupling, and its certificate
==============================================

A cost x^T theta y with few entries is a graph: which coordinate of x meets which one of y. Is it found from pairs?
The certificate of Andrade, Peyre and Poon (2024) says so beforehand: where it is below one, the l1 penalty finds
exactly the edges, given enough pairs.
"""

# %%
# Three graphs, and theta = I/10 + the Laplacian of each. Pairs come from the entropic plan between standard
# Gaussians; their covariances, and the certificate, have closed forms.

import math

import matplotlib.pyplot as plt
import torch

from metaot.inverse import L1, Gaussians, certificate, learn_cost, learn_cost_from_covariances

torch.manual_seed(3)
one = torch.eye(12, dtype=torch.float64)
lines = [torch.ones(k - 1, dtype=torch.float64).diag(1) for k in (3, 4)]
random = (torch.rand(12, 12) < 0.25).double().triu(1)
graphs = one.roll(1, 0), torch.kron(lines[0], one[:4, :4]) + torch.kron(one[:3, :3], lines[1]), random
angle = torch.arange(12) * math.pi / 6
around = torch.stack([angle.cos(), angle.sin()], -1)
points = around, torch.cartesian_prod(torch.arange(3), torch.arange(4)), around
names = "circular", "planar", "random"
places = {name: (half + half.T, where) for name, half, where in zip(names, graphs, points, strict=True)}
truths = {name: one / 10 + edges.sum(1).diag() - edges for name, (edges, _) in places.items()}

# %%
# A thousand pairs of the circular graph at eps = 3. Without a penalty every entry is learned with an error of its
# own; with one the graph is left, and its entries are smaller than those of the truth.

pair = Gaussians(one, one, 3.0)
x, y = pair.sample(truths["circular"], 1000)
free = learn_cost(x, y, eps=3.0)
sparse = learn_cost(x, y, eps=3.0, penalty=L1(1.3 * math.sqrt(math.log(1000) / 1000)))
print(free)
print(sparse)

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
shown = {"truth": truths["circular"], "no penalty": free.theta, "l1 penalty": sparse.theta}
for axis, (title, theta) in zip(axes, shown.items(), strict=True):
    axis.imshow(theta.numpy(), vmin=-2, vmax=2, cmap="RdBu")
    axis.set(title=f"{title}: {int((theta != 0).sum())} entries", xticks=[], yticks=[])
plt.show()

# %%
# The temperature decides. At a low one the plan is nearly a map, edges explain each other, and the certificate is
# above one: more pairs do not help, for the smaller penalty that they allow lets in edges that are not there. At a
# high one it is below one, but pairs are nearly independent, and more of them are needed. Drawn is the share of 8
# draws of n pairs in which exactly the graph is found, with lam = 1.75 sqrt(log(n) / n), from their covariances.

EPS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def recovered(theta, eps, n):
    found = 0
    for _ in range(8):
        x, y = Gaussians(one, one, eps).sample(theta, n)
        x, y = x - x.mean(0), y - y.mean(0)
        drawn = learn_cost_from_covariances(
            x.T @ x / n, y.T @ y / n, x.T @ y / n, eps=eps, penalty=L1(1.75 * math.sqrt(math.log(n) / n)), tol=1e-4
        )
        found += bool(((drawn.theta != 0) == (theta != 0)).all())
    return found / 8


figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained", height_ratios=(1, 1.6))
for (top, below), (name, theta) in zip(axes.T, truths.items(), strict=True):
    edges, where = places[name]
    for ends in edges.triu().nonzero():
        top.plot(*where[ends].T.numpy(), color="gray", lw=1)
    top.plot(*where.T.numpy(), "o", ms=4)
    top.set(title=name, aspect="equal")
    top.axis("off")
    z = [certificate(L1(1.0), theta, Gaussians(one, one, eps).hessian(theta)).largest for eps in EPS]
    below.semilogx(EPS, z, color="black", ls="--", label="certificate")
    below.axhline(1, color="black", lw=0.5)
    for n in (2000, 10_000):
        below.semilogx(EPS, [recovered(theta, eps, n) for eps in EPS], "o-", ms=3, label=f"found, n = {n}")
    below.set(xlabel="eps", ylim=(-0.05, 2.1), xticks=EPS, xticklabels=EPS)
    below.minorticks_off()
axes[1, 0].legend(fontsize="small")
plt.show()
