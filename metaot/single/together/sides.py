"""The atoms with mass of many measures on a grid, in a table with a row for each."""

import math
from collections.abc import Sequence
from typing import final

import numpy as np

from metaot.single.box import extents
from metaot.single.plan import Array


@final
class Side:
    """The sources or the targets of many problems, padded to the most atoms of one.

    What is added has no mass, and one for a product, so that nothing comes of it. Products are made in a box with
    all mass; behind its first axis the problems are counted.
    """

    def __init__(self, weights: Array, atoms: Array, box: "LinedBox") -> None:
        self.weights, self.empty, self.box, self._atoms = weights, weights == 0, box, atoms
        count = len(weights)
        self._shape = box.lines, count, box.rest
        nowhere = box.lines * count * box.rest
        places = box.places.take(atoms, 1, mode="clip")
        in_box = places[0] * count + places[1] + (np.arange(count) * box.rest)[:, None]
        self._places = np.where(self.empty, nowhere, in_box)
        self._given, self._product = np.zeros(nowhere + 1), np.ones(nowhere + 1)

    @classmethod
    def of(cls, weights: Array, sizes: Sequence[int]) -> "Side":
        """Find the atoms with mass of measures on the whole grid, a row for each."""
        count, n = weights.shape
        has_mass = weights != 0
        where = has_mass.reshape(-1).nonzero()[0]
        numbers = has_mass.sum(1)
        width = int(numbers.max())
        before = np.arange(count) * width - (np.cumsum(numbers) - numbers)
        places = np.arange(len(where)) + np.repeat(before, numbers)
        mine, atoms = np.zeros(count * width), np.full(count * width, n)
        mine[places] = weights.reshape(-1)[where]
        atoms[places] = where - np.repeat(np.arange(count) * n, numbers)
        return cls(
            mine.reshape(count, width),
            atoms.reshape(count, width),
            LinedBox(has_mass.any(0).reshape(sizes)),
        )

    def part(self, which: Array) -> "Side":
        """Return that of some problems."""
        width = int((~self.empty[which]).sum(1).max())
        return Side(self.weights[which, :width], self._atoms[which, :width], self.box)

    @property
    def width(self) -> int:
        """The most atoms of a problem."""
        return self.weights.shape[1]

    def weighted(self, u: Array) -> Array:
        """Return the weights times u in the box; good until the next call."""
        self._given[self._places] = self.weights * u
        return self._given[:-1].reshape(self._shape)

    def product(self, in_box: Array) -> Array:
        """Return a product on the atoms with mass."""
        self._product[:-1] = in_box.reshape(-1)
        return self._product[self._places]

    def total(self, values: Array) -> Array:
        """Return the integral over each measure."""
        return np.einsum("bn,bn->b", self.weights, values)

    def take(self, f: Array) -> Array:
        """Return what f, on the whole grid, has on the atoms with mass; elsewhere what it has on the first."""
        return np.take_along_axis(f, np.where(self.empty, self._atoms[:, :1], self._atoms), 1)

    def put(self, values: Array, f: Array) -> None:
        """Put values on the atoms with mass into f, on the whole grid."""
        problem = np.broadcast_to(np.arange(len(f))[:, None], values.shape)
        known = ~self.empty
        f[problem[known], self._atoms[known]] = values[known]

    def whole(self, k: int) -> Array:
        """Return the weights of one of the problems on the whole grid."""
        weights, known = np.zeros(self.box.places.shape[1]), ~self.empty[k]
        weights[self._atoms[k, known]] = self.weights[k, known]
        return weights

    def log_weighted(self, f: Array, k: int) -> Array:
        """Return f plus the logarithms of the weights on the whole grid, for one of the problems."""
        h, known = np.full(self.box.places.shape[1], -np.inf), ~self.empty[k]
        h[self._atoms[k, known]] = f[k, known] + np.log(self.weights[k, known])
        return h


@final
class LinedBox:
    """The smallest box of a grid with all atoms that are true, in lines along all axes but the first."""

    def __init__(self, mask: Array) -> None:
        self.slices = extents(mask)
        self.lines, *others = (side.stop - side.start for side in self.slices)
        self.rest = math.prod(others)
        line, *behind = np.unravel_index(np.arange(mask.size), mask.shape)
        behind = [at - side.start for at, side in zip(behind, self.slices[1:], strict=True)]
        rest = np.ravel_multi_index(behind, others, mode="clip") if behind else 0 * line
        self.places = np.stack([(line - self.slices[0].start) * self.rest, rest])
        """Where an atom of the grid is in the box: the place of its line, and that behind it."""
