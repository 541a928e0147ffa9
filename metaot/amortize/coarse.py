"""Problems on a grid of every second point, for potentials without detail in between."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Grid
from metaot.geometry.base import expand_eps
from metaot.geometry.separable import Separables
from metaot.problem import Problem

_SPACING, _FEWEST = 1.1, 64
"""An axis is made coarser if its points are at most _SPACING roots of eps apart afterwards, below which potentials
have no detail, and if it has at least _FEWEST points."""


@final
@dataclass(frozen=True)
class Coarse:
    """A flat batch of problems on a grid of images, and on a coarser one."""

    problem: Problem
    fine: Problem
    between: Separables
    """The kernels from the fine grid to the coarse one."""

    def lifted(self, f: Any) -> Any:
        """Return what half a Sinkhorn step makes of f, a tensor or an array, on the fine grid."""
        arrays = not isinstance(f, Tensor)
        found = self._by_products(f, np if arrays else torch)
        if math.isfinite(float(found.sum())):
            return found
        lifted = self._by_softmin((torch.from_numpy(f) if arrays else f).to(self.problem.a))
        return lifted.numpy() if arrays else lifted

    def _by_products(self, f: Any, xp: Any) -> Any:
        """Return it by products of scalings with kernels; not finite where numbers leave floating point."""
        coarse, eps, here = self.problem.geometry, self.problem.eps, self.problem
        assert isinstance(coarse, Grid)
        inner, outer = coarse.plain_kernels(eps), self.between.at(eps)
        unit = eps.double()[:, None] if isinstance(eps, Tensor) else eps
        tensors = [here.a, here.b, *inner.kernels, *outer.kernels]
        if xp is np:
            a, b, K, L, M, N = (tensor.detach().numpy() for tensor in tensors)
            unit = unit.numpy() if isinstance(unit, Tensor) else unit
        else:
            a, b, K, L, M, N = (tensor.double() for tensor in tensors)
        with np.errstate(all="ignore"):
            z = f / unit
            top = xp.amax(z, axis=1, keepdims=True)
            sums = K @ (a * xp.exp(z - top)).reshape(-1, *coarse.sizes) @ L.mT
            v = b.reshape(sums.shape) / xp.where(sums > 0, sums, math.inf)
            rows = (M @ v @ N.mT).reshape(len(f), -1)
            xp.log(rows, out=rows)
            rows -= top
            rows *= -unit
        rows += outer.offset - inner.offset
        return rows

    def _by_softmin(self, f: Tensor) -> Tensor:
        problem, eps = self.problem, expand_eps(self.problem.eps, f)
        g = problem.geometry.T.softmin(f + eps * problem.a.log(), problem.eps)
        return self.between.at(problem.eps).softmin((g + eps * problem.b.log()).double())


def coarsened(problem: Problem) -> Coarse | None:
    """Return a flat batch of images on a coarser grid.

    None for other geometries, and where potentials have detail that the coarse grid has not.
    """
    grid = problem.geometry
    if not isinstance(grid, Grid) or len(problem.a) == 0:
        return None
    eps = float(problem.eps.min()) if isinstance(problem.eps, Tensor) else problem.eps
    widest = _SPACING * math.sqrt(eps)
    by = tuple(
        2 if 2 * spacing <= widest and size >= _FEWEST else 1
        for spacing, size in zip(grid.spacings, grid.sizes, strict=True)
    )
    if max(by) == 1:
        return None
    coarse, between = grid.coarsened(by)
    a, b = (_pooled(weights, grid.sizes, by) for weights in (problem.a, problem.b))
    return Coarse(Problem.trusted(a, b, coarse, problem.eps), problem, between)


def _pooled(weights: Float[Tensor, "batch n"], sizes: tuple[int, ...], by: tuple[int, ...]) -> Tensor:
    """Return the sums of `by` neighbouring points of each axis, one or two; the last sum may be of fewer."""
    sums: Any = weights.detach()
    sums = (sums.numpy() if sums.is_cpu else sums).reshape(-1, *sizes)
    for axis, count in enumerate(by, 1):
        if count == 2:
            before = (slice(None),) * axis
            first, second = sums[*before, ::2], sums[*before, 1::2]
            sums = first + 0 if first.shape != second.shape else first + second
            if first.shape != second.shape:
                sums[*before, :-1] += second
    sums = sums.reshape(len(weights), -1)
    return sums if isinstance(sums, Tensor) else torch.from_numpy(sums)
