"""Costs as arrays for the compiled core."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

Array = np.ndarray

POINT_COSTS = ("sqeuclidean", "euclidean", "sphere")
"""The costs between points that the core knows by name."""

_AXES, _MATRIX, _CLOUDS = range(3)


@final
@dataclass(frozen=True)
class Costs:
    """Costs between n source and m target atoms; with a batch, a matrix or a pair of clouds for each problem.

    Make it by `on_axes`, `of_matrix`, `of_axis` or `between_points`.
    """

    kind: int
    point_cost: int
    arrays: tuple[Array, ...]
    coordinates: tuple[Array, ...] = ()
    """Of a grid that both sides share, those along each axis."""

    @classmethod
    def on_axes(cls, costs: tuple[Array, ...], coordinates: tuple[Array, ...] = ()) -> "Costs":
        """Return costs that are the sum of one matrix for each axis of a grid; one axis alone is a matrix."""
        arrays: list[Array] = []
        for cost in map(_contiguous, costs):  # of equal axes kernels are made once
            same = (array for array in arrays if np.array_equal(array, cost))
            arrays.append(next(same, cost))
        if len(arrays) == 1:
            return cls.of_matrix(arrays[0])
        return cls(_AXES, 0, tuple(arrays), tuple(map(_contiguous, coordinates)))

    @classmethod
    def of_matrix(cls, C: Array) -> "Costs":
        """Return the costs of a matrix, n m or batch n m."""
        return cls(_MATRIX, 0, (_contiguous(C),))

    @classmethod
    def of_axis(cls, C: Array) -> "Costs":
        """Return a matrix n m as the costs along one axis: `sinkhorn_step` takes no other ones."""
        return cls(_AXES, 0, (_contiguous(C),))

    @classmethod
    def between_points(cls, x: Array, y: Array, cost: str) -> "Costs":
        """Return the costs between points, (batch) n d and (batch) m d, by their name in `POINT_COSTS`."""
        return cls(_CLOUDS, POINT_COSTS.index(cost), (_contiguous(x), _contiguous(y)))

    @property
    def has_axes(self) -> bool:
        """Whether the atoms are those of a grid with several axes."""
        return self.kind == _AXES

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of atoms."""
        if self.kind == _AXES:
            return math.prod(len(C) for C in self.arrays), math.prod(C.shape[1] for C in self.arrays)
        if self.kind == _MATRIX:
            return self.arrays[0].shape[-2:]
        return self.arrays[0].shape[-2], self.arrays[1].shape[-2]

    @property
    def dimension(self) -> int:
        """That of points; zero if the costs are not between points."""
        return self.arrays[0].shape[-1] if self.kind == _CLOUDS else 0

    @cached_property
    def details(self) -> tuple[dict[int, float], ...]:
        """For each axis, by how much exchanging the targets of neighbouring points changes their cost, halved.

        By the stride between points: that of the squared distance is the square of their own distance. There are
        none for axes on which no coarser grid can stand for this one: their coordinates are not in order.
        """
        found: list[dict[int, float]] = []
        for k, (C, axis) in enumerate(zip(self.arrays, self.coordinates, strict=False)):
            same = k > 0 and C is self.arrays[k - 1] and np.array_equal(axis, self.coordinates[k - 1])
            found.append(found[-1] if same else details_along(C, axis))
        return tuple(found)

    @cached_property
    def axis_points(self) -> float:
        """The number of points on all axes; infinity without axes."""
        return float(sum(map(len, self.arrays))) if self.kind == _AXES else math.inf

    @cached_property
    def range(self) -> float:
        """About how far the highest cost is above the lowest; of points, a bound."""
        if self.kind == _CLOUDS:
            return self._range_of_points()
        return sum(float(C[np.isfinite(C)].max() - C.min()) for C in self.arrays)

    def _range_of_points(self) -> float:
        points = [z.reshape(-1, z.shape[-1]) for z in self.arrays]
        low = np.minimum(*(z.min(0) for z in points))
        high = np.maximum(*(z.max(0) for z in points))
        square = float(np.square(high - low).sum())
        return square if POINT_COSTS[self.point_cost] == "sqeuclidean" else min(math.sqrt(square), 2 * math.pi)

    def __getitem__(self, index: Array) -> "Costs":
        """Return those of some problems."""
        if self.kind == _AXES or all(array.ndim == 2 for array in self.arrays):
            return self
        return Costs(self.kind, self.point_cost, tuple(_contiguous(array[index]) for array in self.arrays))


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=np.float64)


def details_along(C: Array, coordinates: Array) -> dict[int, float]:
    """Return `Costs.details` of one axis."""
    steps = np.diff(coordinates)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        return {}
    found, stride = {}, 2
    while stride < len(C):
        exchanged = np.diff(np.diff(C[::stride, ::stride], axis=0), axis=1)
        found[stride] = float(np.abs(exchanged).max()) / 2
        stride *= 2
    return found
