"""Sinkhorn on a grid, for one problem or many: by compiled code where there is some, else in numpy.

The compiled code, in `steps/`, takes the same steps as `metaot.single.axes`, those of digits in two microseconds
instead of twenty. Starts that need logarithms of sums to be judged, and sums that need them, are left to numpy.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, final

import numpy as np

from metaot.single.axes import AxesProblem, continued_in_logs, sinkhorn_on_axes
from metaot.single.axes_kernel import FITS, AxesKernel
from metaot.single.choose import newton_in_steps
from metaot.single.plan import Array, Refined

try:
    from metaot.single import _steps
except ImportError:  # installed where there was no compiler
    _steps = None

_NEEDS_LOGS, _UNKNOWN, _LOST = 1, 2, 3
"""What it tells, if not that all is well: potentials far from mass, or the start, need logarithms; all is lost."""

_WORTH = 2**14
"""Atoms on the grids of all problems of a thread, from which on it is worth its start."""


@final
class Each(NamedTuple):
    """What became of problems, a row for each: potentials on all atoms, the L1 error and the steps.

    Where numbers left floating point f is the start, and the error is infinite.
    """

    f: Array
    g: Array
    error: Array
    steps: Array

    @classmethod
    def empty(cls, a: Array, b: Array) -> "Each":
        """Make room for rows of weights."""
        return cls(np.empty(a.shape), np.empty(b.shape), np.empty(len(a)), np.empty(len(a), dtype=np.int64))

    def put(self, k: int, found: Refined | None, start: Array | None) -> None:
        """Put what became of one problem; it is None where numbers left floating point."""
        if found is None:
            f = np.zeros(self.f.shape[1]) if start is None else start[k]
            found = Refined(f, np.zeros(self.g.shape[1]), math.inf, 0)
        self.f[k], self.g[k], self.error[k], self.steps[k] = found.f, found.g, found.error, found.steps


def sinkhorn_on_grid(
    K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int, before_newton: bool = False
) -> Refined | None:
    """Step from f, or from zeros where these are the better start, until the error is at most `tol`.

    Weights and potentials, in units of eps, are on the whole grid. `before_newton`, it stops early where that
    would be sooner. None if the numbers leave floating point on the way.
    """
    if _steps is None:
        return _in_numpy(K, a, b, f, tol=tol, max_steps=max_steps, before_newton=before_newton)
    found = _compiled(K, a[None], b[None], None if f is None else f[None], tol=tol, max_steps=max_steps)
    error = float(found.error[0])
    return None if error == math.inf else Refined(found.f[0], found.g[0], error, int(found.steps[0]))


def sinkhorn_on_grid_each(
    K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int, threads: int = 1
) -> Each:
    """Do the same for each row of weights and starts."""
    threads = min(threads, len(a), a.size // _WORTH)
    if _steps is None or threads <= 1:
        return _rows(K, a, b, f, tol=tol, max_steps=max_steps)

    def part(which: slice) -> Each:
        return _rows(K, a[which], b[which], None if f is None else f[which], tol=tol, max_steps=max_steps)

    ends = np.linspace(0, len(a), threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(part, map(slice, ends[:-1], ends[1:])))
    return Each(*map(np.concatenate, zip(*parts, strict=True)))


def _rows(K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int) -> Each:
    if _steps is not None:
        return _compiled(K, a, b, f, tol=tol, max_steps=max_steps)
    found = Each.empty(a, b)
    for k in range(len(a)):
        start = None if f is None else f[k]
        found.put(k, _in_numpy(K, a[k], b[k], start, tol=tol, max_steps=max_steps), f)
    return found


def _in_numpy(
    K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int, before_newton: bool = False
) -> Refined | None:
    problem = AxesProblem(K, a, b)
    ahead = newton_in_steps(len(problem.a), len(problem.b)) if before_newton else math.inf
    return sinkhorn_on_axes(problem, f, tol=tol, max_steps=max_steps, most_ahead=ahead)


def _compiled(K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int) -> Each:
    assert _steps is not None
    found, told = Each.empty(a, b), np.empty(len(a), dtype=np.int64)
    weights = np.ascontiguousarray(a), np.ascontiguousarray(b), None if f is None else np.ascontiguousarray(f)
    kernel = (*K.flat, K.offset, max(K.range, FITS), K.lost, K.fits)
    _steps.refine_each(kernel, weights, (found.f, found.g, found.error, found.steps, told), (tol, max_steps))
    for k in told.nonzero()[0].tolist():
        if told[k] == _NEEDS_LOGS:
            found.f[k], found.g[k] = continued_in_logs(K, a[k], b[k], found.f[k])
        elif told[k] == _UNKNOWN:
            start = None if f is None else f[k]
            found.put(k, _in_numpy(K, a[k], b[k], start, tol=tol, max_steps=max_steps), f)
        else:
            found.put(k, None, f)
    return found
