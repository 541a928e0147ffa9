"""A coarser grid for problems that have no detail finer than it."""

from dataclasses import dataclass
from typing import final

from metaot.geometry.base import Geometry
from metaot.geometry.kept_kernels import KeptKernels


@final
@dataclass(frozen=True)
class CoarseGrid:
    """A grid with neighbouring points of each axis of a finer one in one, at their mean."""

    grid: Geometry
    lifts: KeptKernels
    """From the points of the finer grid to those of this one."""
