"""The part of a grid where a measure is: products with what is around it would be for nothing."""

from collections.abc import Sequence
from typing import final

import numpy as np

from metaot.single.plan import Array

_WORTH = 1024
"""Atoms of a grid above which finding the box takes less time than it saves."""


@final
class Box:
    """The smallest box with all atoms that are true in a mask of a grid; the whole grid where that is small.

    `atoms` tells where they are on the grid, `places` where in the box.
    """

    def __init__(self, mask: Array, sizes: Sequence[int]) -> None:
        self.sizes, self.slices = tuple(sizes), [slice(0, size) for size in sizes]
        self.atoms = self.places = mask.nonzero()[0]
        if len(mask) <= _WORTH or len(self.atoms) == 0:
            return
        mask = mask.reshape(self.sizes)
        self.slices = extents(mask)
        self.sizes = tuple(side.stop - side.start for side in self.slices)
        self.places = mask[tuple(self.slices)].reshape(-1).nonzero()[0]


def extents(mask: Array) -> list[slice]:
    """Return for each axis of a grid the smallest slice with all atoms that are true; there is one at least."""
    axes = range(mask.ndim)
    others = (tuple(other for other in axes if other != axis) for axis in axes)
    along = (np.logical_or.reduce(mask, other).nonzero()[0] for other in others)
    return [slice(int(found[0]), int(found[-1]) + 1) for found in along]
