"""A coarser grid for problems that have no detail finer than it."""

from dataclasses import dataclass
from typing import final

import numpy as np

from metaot import single
from metaot.geometry.base import Eps, Geometry
from metaot.geometry.kept_kernels import KeptKernels
from metaot.single.plan import Array


@final
@dataclass(frozen=True)
class CoarseGrid:
    """A grid with neighbouring points of each axis of another in one, at their mean."""

    grid: Geometry
    by: tuple[int, ...]
    """How many points are in one, along each axis; the last one may have fewer."""
    sizes: tuple[int, ...]
    """The number of points of the other grid along each axis."""
    kernels: KeptKernels
    """From the points of the other grid to those of this one."""

    def pooled(self, weights: Array) -> Array:
        """Return rows of weights of the other grid on this one."""
        return single.pooled(weights, self.sizes, self.by)

    def lifted(self, coarse: single.Coarse, a: Array, eps: Eps, *, threads: int) -> single.Lifted:
        """Return what f leads to, by a Sinkhorn step to the other grid, where a has mass there."""
        kernels = self.kernels.at(eps, np.inf)
        assert kernels is not None
        return single.lift_each(coarse, kernels, a, threads=threads)
