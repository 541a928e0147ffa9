"""The costs of a model's space in numpy, as they lie in its file."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import iadd
from typing import NamedTuple, final

import numpy as np

from metaot import single

Array = np.ndarray


@final
@dataclass(frozen=True)
class Costs:
    """A matrix C, n m; or one for each axis of a grid, of which C is the sum."""

    matrices: tuple[Array, ...]
    sizes: tuple[int, ...]
    """The numbers of points along the axes; empty for a matrix."""

    @classmethod
    def of_images(cls, sizes: tuple[int, ...]) -> "Costs":
        """Return the squared distances of pixels that lie evenly on the unit square."""
        axes = [np.linspace(0, 1, size) for size in sizes]
        return cls(tuple((axis[:, None] - axis) ** 2 for axis in axes), sizes)

    def block(self, rows: Array, columns: Array) -> Array:
        """Return C at these rows and columns."""
        if not self.sizes:
            return self.matrices[0].take(columns, 1).take(rows, 0)
        indices = zip(np.unravel_index(rows, self.sizes), np.unravel_index(columns, self.sizes), strict=True)
        blocks = [C.take(j, 1).take(i, 0) for C, (i, j) in zip(self.matrices, indices, strict=True)]
        return reduce(iadd, blocks)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of atoms."""
        if self.sizes:
            return math.prod(self.sizes), math.prod(self.sizes)
        return self.matrices[0].shape

    @property
    def highest(self) -> float:
        """The highest cost."""
        return float(sum(C.max() for C in self.matrices))

    def axis_kernels(self, eps: float) -> single.AxesKernel | None:
        """Return exp(-C/eps) as matrices along axes; None without axes, or where products are not worth trying."""
        return self._at(eps).kernel

    def softmin(self, eps: float, *, transposed: bool) -> Callable[[Array], Array] | None:
        """Return the softmin of functions on a grid, over the source where `transposed`; None without axes."""
        found = self._at(eps)
        return found.transposed if transposed else found.forward

    def _at(self, eps: float) -> "_AtEps":
        found = self._kept.get(eps)
        if found is None:
            found = self._new(eps)
            others = list(self._kept.items())[-_KEPT:]  # replaced as a whole: threads may share the costs
            self.__dict__["_kept"] = dict([*others, (eps, found)])
        return found

    def _new(self, eps: float) -> "_AtEps":
        if not self.sizes:
            return _AtEps(None, None, None)
        fits = self.highest <= single.LARGEST * eps
        kernel = single.AxesKernel([C / eps for C in self.matrices]) if fits else None
        forward, transposed = single.GridSoftmin(self.matrices, eps), [C.T for C in self.matrices]
        return _AtEps(kernel, forward, single.GridSoftmin(transposed, eps))

    @cached_property
    def _kept(self) -> "dict[float, _AtEps]":
        return {}


@final
class _AtEps(NamedTuple):
    kernel: single.AxesKernel | None
    forward: single.GridSoftmin | None
    transposed: single.GridSoftmin | None


_KEPT = 7
"""How many temperatures are remembered, beside the last one."""
