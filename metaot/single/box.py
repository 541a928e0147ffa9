"""The part of a grid where a measure is: products with what is around it would be for nothing."""

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from metaot.single.plan import Array

_WORTH = 1024
"""Atoms of a grid above which finding the box takes less time than it saves."""


@final
class Box:
    """The smallest box with the given atoms of a grid; all of the grid where it is small."""

    def __init__(self, atoms: Array, sizes: Sequence[int]) -> None:
        self.sizes, self.slices = tuple(sizes), [slice(0, size) for size in sizes]
        self.places = atoms
        """Where the atoms are in the box."""
        if math.prod(sizes) <= _WORTH or len(atoms) == 0:
            return
        at = np.unravel_index(atoms, sizes)
        self.slices = extents(at)
        self.sizes = tuple(side.stop - side.start for side in self.slices)
        self.places = np.zeros_like(atoms)
        for k, side, size in zip(at, self.slices, self.sizes, strict=True):
            self.places *= size
            self.places += k
            self.places -= side.start


def extents(at: Sequence[Array]) -> list[slice]:
    """Return for each axis of a grid the smallest slice with all atoms at these indices."""
    return [slice(int(k.min()), int(k.max()) + 1) for k in at]
