"""Coarse to fine between clouds: the coarser levels are between clusters of the atoms.

A cluster is as many atoms as a power of two, near each other; its point is their mean by weight. Where clusters
are wider than the plan, a level has a higher temperature: its plan is as wide as they are (Schmitzer, SIAM J. Sci.
Comput. 2019). The potential g of a level leads to f on the next finer one, which is the best there for g on the
clusters. Steps are corrected by the plan between clusters: what is smooth in their error is the mean, under that
plan, of what is found for the clusters. Compiled code makes the same steps (`metaot/core/src/stages.c`).
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from metaot.core.method import Result, Strides
from metaot.geometry import Points
from metaot.geometry.base import expand_eps, replaced
from metaot.geometry.kernel import Kernel
from metaot.problem import Problem
from metaot.solvers.correction import Correction, Transfer, divided
from metaot.solvers.hierarchy import Hierarchy

SOLVED = 1.0
"""The L1 error of a level that gives no start."""

WIDTH = 3.0
"""The temperature of a level over the mean cost from atoms to their clusters, at least."""

SMOOTH = 6.0
"""The same where the plan between clusters is nearly as smooth as that between atoms."""

HOTTER = 8.0
"""How many times that of the steps the temperature of a correction may be."""

CORRECTED = 1e-3
"""The L1 error from which on steps are corrected: what is left is smooth then."""

FEWEST = 64
"""Clusters of the smaller side, which has no fewer for the sake of the larger one."""


@final
@dataclass(frozen=True)
class Level:
    """Problems between clusters of atoms, or between the atoms themselves; each has its own points."""

    problem: Problem
    eps: Float[Tensor, "batch"]
    spread: Float[Tensor, "batch"]
    """The mean cost from atoms to their clusters."""
    stride: int
    """Of the source, the atoms in a cluster."""
    places: Int[Tensor, "batch n"]
    """Of each source point, the place of its first atom in a row in which clusters follow each other."""

    @property
    def cloud(self) -> Points:
        """The points of both sides."""
        assert isinstance(self.problem.geometry, Points)
        return self.problem.geometry


@final
class Clusters(Hierarchy):
    """The problems between clusters of a flat batch between clouds; a stride is the number of atoms in a cluster.

    Atoms are clustered by their points alone, whatever their weights are. A shared cloud is clustered once, but
    clusters have their own points in each instance: the means by its weights.
    """

    solved = SOLVED

    def __init__(self, problem: Problem, strides: Strides) -> None:
        cloud, batch = problem.geometry, len(problem.a)
        assert isinstance(cloud, Points)
        orders = [order_of(z.reshape(-1, *z.shape[-2:])).expand(batch, -1) for z in cloud.points]
        cloud = replaced(cloud, x=cloud.x.expand(batch, -1, -1), y=cloud.y.expand(batch, -1, -1))
        eps = problem.a.new_ones(batch) * problem.eps
        finest = Problem.trusted(problem.a, problem.b, cloud, eps, problem.marginals)
        self._levels = [Level(finest, eps, torch.zeros_like(eps), 1, orders[0].argsort(-1))]
        sides = (cloud.x, problem.a, orders[0]), (cloud.y, problem.b, orders[1])
        atoms = [(z.gather(1, order[..., None].expand_as(z)), w.gather(1, order)) for z, w, order in sides]
        for (stride,) in strides:
            (x, a, first), (y, b, second) = (_clusters(cloud, *side, stride) for side in atoms)
            spread = first.maximum(second)
            wide = (WIDTH * spread).maximum(eps)
            coarse = Problem.trusted(a, b, replaced(cloud, x=x, y=y), wide, problem.marginals)
            own = _stride(len(orders[0][0]), stride)
            places = own * torch.arange(a.shape[-1], device=a.device).expand_as(a)
            self._levels.append(Level(coarse, wide, spread, own, places))
        self.problems = [level.problem for level in self._levels[1:]]

    def start(self, f: Float[Tensor, "batch n"]) -> None:
        """Return none: a start that is not near the solution is left for zeros."""

    def lifted(self, level: int, g: Float[Tensor, "batch coarse_m"]) -> Float[Tensor, "batch n"]:
        finer, coarse = self._levels[level], self.problems[level]
        across = replaced(finer.cloud, y=self._levels[level + 1].cloud.y)
        exact = across.softmin(g + expand_eps(coarse.eps, g) * coarse.b.log(), coarse.eps)
        return coarse.marginals.source.best(exact, coarse.eps)

    def correction(self, results: list[Result], to: int, tol: float) -> Correction | None:
        """Return that by the last of the next two levels that is smooth at the same temperature, or by a near one.

        The temperature of a near one may be higher: what is smooth in an error is smaller there, by the ratio of
        both. None where no level is so near in all instances, where potentials have bounds, and where the error
        that is wanted is not smooth.
        """
        finer, following = self._levels[to + 1], range(to + 2, min(to + 4, len(self._levels)))
        ratios = {k: self._levels[k].eps / finer.eps for k in following}
        near = [k for k, ratio in ratios.items() if bool((ratio <= HOTTER).all())]
        smooth = [k for k in near if self._is_smooth(k, ratios[k])]
        if not near or tol >= CORRECTED or not finer.problem.marginals.are_smooth:
            return None
        base = smooth[-1] if smooth else near[0]
        level, result = self._levels[base], results[base - len(self._levels)]
        b, eps = level.problem.b, level.eps
        across = replaced(level.cloud, x=finer.cloud.x).T
        h = result.g + expand_eps(eps, result.g) * b.log()
        _, means = across.best_plan(h, torch.ones_like(finer.problem.a), eps)
        columns = divided(ratios[base][:, None].expand_as(b), b)
        to_clusters = ToClusters(finer.places // level.stride, level.problem.a.shape[-1], columns, means.T)
        return Correction.of(level.problem, result.f, to_clusters)

    def _is_smooth(self, level: int, ratio: Float[Tensor, "batch"]) -> bool:
        """Return whether plans have the temperature of the steps, and are much wider than clusters."""
        wide = self._levels[level].eps >= SMOOTH * self._levels[level].spread
        return bool(((ratio == 1) & wide).all())


@final
@dataclass(frozen=True)
class ToClusters(Transfer):
    """From points of the source to clusters of them, and back through the target's clusters."""

    clusters: Int[Tensor, "batch n"]
    """The cluster of each point."""
    count: int
    columns: Float[Tensor, "batch coarse_m"]
    """What sums over columns of the plan are multiplied by: they become means, in units of the finer eps."""
    means: Kernel
    """From the target's clusters to means of them at the points, under the plan."""

    def restrict(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch coarse_n"]:
        return x.new_zeros(len(x), self.count).scatter_add(1, self.clusters, x)

    def prolong(
        self, of: Correction, mean: Float[Tensor, "batch coarse_n"], found: Float[Tensor, "batch coarse_n"]
    ) -> Float[Tensor, "batch n"]:
        return self.means.times(of.damping * self.columns * of.kernel.T.times(mean + found))


def order_of(points: Float[Tensor, "batch n d"]) -> Int[Tensor, "batch n"]:
    """Order points such that as many as any power of two, in a row from a multiple of it, are near each other.

    They are divided in two along the widest axis, and so on; all parts of one depth at once.
    """
    batch, n, d = points.shape
    order = torch.arange(n, device=points.device).expand(batch, n)
    counts = np.array([n])
    while counts.max() > 1:
        part = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(points.device)
        index, ends = part[:, None].expand(batch, n, d), points.new_zeros(batch, len(counts), d)
        high, low = (ends.scatter_reduce(1, index, points, how, include_self=False) for how in ("amax", "amin"))
        axis = (high - low).argmax(-1)[:, part]
        along = points.gather(-1, axis[..., None])[..., 0].argsort(stable=True)
        sort = along.gather(-1, part[along].argsort(stable=True))
        order, points = order.gather(-1, sort), points.gather(1, sort[..., None].expand_as(points))
        unit = 2 ** np.maximum(np.frexp(counts)[1] - 2, 0)
        half = (counts + unit) // (2 * unit) * unit
        counts = np.stack((half, counts - half), 1).reshape(-1)
        counts = counts[counts > 0]
    return order


def _stride(atoms: int, stride: int) -> int:
    """Return how many atoms of a side are a cluster."""
    while stride > 1 and atoms < FEWEST * stride:
        stride //= 2
    return stride


def _clusters(
    cloud: Points, points: Float[Tensor, "batch n d"], weights: Float[Tensor, "batch n"], stride: int
) -> tuple[Float[Tensor, "batch k d"], Float[Tensor, "batch k"], Float[Tensor, "batch"]]:
    """Return the means of atoms in a row, their weights, and the mean cost from atoms to these."""
    stride = _stride(weights.shape[-1], stride)
    missing = -weights.shape[-1] % stride
    points = torch.cat((points, points[:, -1:].expand(-1, missing, -1)), 1).unflatten(1, (-1, stride))
    shares = pad(weights, (0, missing)).unflatten(1, (-1, stride))
    total = shares.sum(-1)
    counted = torch.where(total[..., None] > 0, shares, 1.0)
    means = cloud.middle(counted / counted.sum(-1, keepdim=True), points)
    spread = (shares * cloud.distances(points, means[..., None, :])).sum((-2, -1))
    return means, total, spread / total.sum(-1)
