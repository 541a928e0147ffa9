"""A coarser grid, for problems without finer detail."""

from dataclasses import dataclass
from typing import final

from metaot.geometry.base import Geometry
from metaot.geometry.kept_kernels import KeptKernels


@final
@dataclass(frozen=True)
class CoarseGrid:
    """A grid that merges neighbouring points along each axis of a finer one into their mean."""

    grid: Geometry
    lifts: KeptKernels
    """Kernels from the points of the finer grid to the points of the coarse one."""
