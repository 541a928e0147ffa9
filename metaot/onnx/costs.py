"""The costs of a model's space in numpy, as they lie in its file, and solves from predictions."""

import math
from dataclasses import dataclass
from functools import reduce
from typing import final

import numpy as np

from metaot import core
from metaot.core import method

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

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of atoms."""
        if self.sizes:
            return math.prod(self.sizes), math.prod(self.sizes)
        return self.matrices[0].shape

    def refined(
        self, a: Array, b: Array, eps: Array, f: Array, *, tol: float, max_steps: int, threads: int
    ) -> core.Result:
        """Refine the rows of f for those of both weights, whose masses are made equal to the last digit.

        `eps` is one number or one for each. Compiled code makes the steps, or torch where there is none.
        """
        a, b = (weights / weights.sum(-1, keepdims=True) for weights in (a, b))
        eps = np.broadcast_to(eps, len(a)).astype(np.float64)
        if not core.COMPILED:
            return self._by_torch(a, b, eps, f, tol=tol, max_steps=max_steps)
        costs = core.Costs.on_axes(self.matrices) if self.sizes else core.Costs.of_matrix(self.matrices[0])
        back_end = core.Compiled(costs, a, b, eps, threads=threads)
        return method.choose(back_end, f, tol=tol, max_steps=max_steps)[0]

    def _by_torch(self, a: Array, b: Array, eps: Array, f: Array, *, tol: float, max_steps: int) -> core.Result:
        try:
            import torch  # noqa: PLC0415, compiled code needs no torch

            from metaot.geometry import Dense  # noqa: PLC0415, the same
            from metaot.potentials import DualPotentials  # noqa: PLC0415, the same
            from metaot.problem import Problem  # noqa: PLC0415, the same
            from metaot.solvers import solve  # noqa: PLC0415, the same
        except ImportError:
            raise RuntimeError(
                "solving needs compiled code or torch: install metaot where there is a C compiler, or torch"
            ) from None
        C, source, target, each, first = map(torch.from_numpy, (self._matrix(), a, b, eps, f))
        start = DualPotentials(first, torch.zeros_like(target))
        found = solve(Problem(source, target, Dense(C), each), init=start, tol=tol, max_steps=max_steps)
        values = found.potentials.f, found.potentials.g, found.error, found.steps
        return core.Result(*(value.numpy() for value in values))

    def _matrix(self) -> Array:
        def outer(C: Array, axis: Array) -> Array:
            total = C[:, None, :, None] + axis[None, :, None, :]
            return total.reshape(len(C) * len(axis), -1)

        return reduce(outer, self.matrices)
