"""From a grid to a coarser one and back: what has no detail finer than that is as well done there, and sooner."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple, final

import numpy as np

from metaot.single.axes import start_of_step
from metaot.single.axes_kernel import AxesKernel
from metaot.single.grid import STEPPED, Kernels, kernel_of, useful
from metaot.single.plan import Array

try:
    from metaot.single import _steps
except ImportError:  # installed where there was no compiler
    _steps = None


def pooled(weights: Array, sizes: Sequence[int], by: Sequence[int]) -> Array:
    """Return rows of weights on the grid with so many neighbouring points of each axis in one."""
    grouped, inner = weights, math.prod(sizes)
    for size, count in zip(sizes, by, strict=True):
        inner //= size
        lines = grouped.reshape(-1, size, inner)
        grouped = reduce(_added, (lines[:, k::count] for k in range(count)))
    return grouped.reshape(len(weights), -1)


def _added(first: Array, others: Array) -> Array:
    """Return the sum along the middle, where there may be one more of the first."""
    count = others.shape[1]
    if first.shape[1] == count:
        return first + others
    return np.concatenate([first[:, :count] + others, first[:, count:]], 1)


@final
class Coarse(NamedTuple):
    """Problems on a coarse grid: kernels, and in rows weights, and f in units of eps, right on atoms with mass."""

    K: Kernels
    a: Array
    b: Array
    f: Array


@final
class Lifted(NamedTuple):
    """f on another grid, on its atoms with mass, and anything elsewhere; of problems that are `lost` nothing.

    Lost are those whose numbers leave floating point.
    """

    f: Array
    lost: Array


def lift_each(coarse: Coarse, K: Kernels, a: Array, *, threads: int = 1) -> Lifted:
    """Make a step from each row of f, from which it comes back to a finer grid.

    `K` is from the points of that one to those of the coarse one, and `a` are the weights there.
    """
    f, told = np.empty(a.shape), np.zeros(len(a), dtype=np.int64)
    if _steps is not None:
        source, target, start, fine = map(np.ascontiguousarray, (coarse.a, coarse.b, coarse.f, a))
        problems = source, target, start, fine
        _steps.lift_each(coarse.K.flat, K.flat, problems, (f, told), useful(threads, a, STEPPED))
    else:
        for k in range(len(a)):
            row = _lifted(coarse, k, kernel_of(K, k), a[k])
            if row is None:
                told[k] = 1
            else:
                f[k] = row
    return Lifted(f, told.nonzero()[0])


@np.errstate(all="ignore")
def _lifted(coarse: Coarse, k: int, K: AxesKernel, a: Array) -> Array | None:
    there = kernel_of(coarse.K, k)
    start = start_of_step(there, coarse.a[k], coarse.b[k], coarse.f[k])
    rows = K.times(start.v)
    right = start.right and (K.fits or K.right(rows[a > 0], start.v))
    return start.top + K.offset - there.offset - np.log(rows) if right else None
