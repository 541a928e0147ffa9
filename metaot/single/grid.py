"""Sinkhorn on a grid, for one problem or many: by compiled code where there is some, else in numpy.

The compiled code, in `steps/`, takes the same steps as `metaot.single.axes`, those of digits in two microseconds
instead of twenty. Starts that need logarithms of sums to be judged, and sums that need them, are left to numpy.
"""

import math
from typing import NamedTuple, final

import numpy as np

from metaot.single.axes import AxesProblem, continued_in_logs, sinkhorn_on_axes, step_on_axes
from metaot.single.axes_kernel import AxesKernel, AxesKernels
from metaot.single.choose import newton_in_steps
from metaot.single.plan import Array, Refined

try:
    from metaot.single import _steps
except ImportError:  # installed where there was no compiler
    _steps = None

Kernels = AxesKernel | AxesKernels
"""One for all problems, or one for each."""

_NEEDS_LOGS, _UNKNOWN, _LOST = 1, 2, 3
"""What it tells, if not that all is well: potentials far from mass, or the start, need logarithms; all is lost."""

COMPILED = _steps is not None
"""Whether there is compiled code."""

_REFINED, _STEPPED = 2**12, 2**16
"""Atoms on the grids of the problems of a thread, from which on it is worth waking: to refine, and for a step."""


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
    def empty(cls, a: Array, b: Array, f: Array | None = None) -> "Each":
        """Make room for rows of weights, or take it from f."""
        f = np.empty(a.shape) if f is None else f
        return cls(f, np.empty(b.shape), np.empty(len(a)), np.empty(len(a), dtype=np.int64))

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
    start, found = None if f is None else f[None], Each.empty(a[None], b[None])
    _refine_compiled(K, a[None], b[None], start, found, tol=tol, max_steps=max_steps, threads=1)
    error = float(found.error[0])
    return None if error == math.inf else Refined(found.f[0], found.g[0], error, int(found.steps[0]))


def sinkhorn_on_grid_each(
    K: Kernels,
    a: Array,
    b: Array,
    f: Array | None,
    *,
    tol: float,
    max_steps: int,
    threads: int = 1,
    in_place: bool = False,
) -> Each:
    """Do the same for each row of weights and starts; `in_place`, the starts become what is found."""
    found = Each.empty(a, b, f if in_place else None)
    if _steps is not None:
        _refine_compiled(K, a, b, f, found, tol=tol, max_steps=max_steps, threads=threads)
        return found
    for k in range(len(a)):
        start = None if f is None else f[k]
        found.put(k, _in_numpy(_kernel(K, k), a[k], b[k], start, tol=tol, max_steps=max_steps), f)
    return found


@final
class Stepped(NamedTuple):
    """What one step leads to, and a less the marginal of the plan of f, in rows; of those that are `lost` nothing.

    Lost are problems whose numbers leave floating point.
    """

    f: Array
    missing: Array
    lost: Array


def step_on_grid_each(K: Kernels, a: Array, b: Array, f: Array, *, threads: int = 1) -> Stepped:
    """Make a step from each row of f."""
    following, missing, told = np.empty(a.shape), np.empty(a.shape), np.zeros(len(a), dtype=np.int64)
    if _steps is not None:
        problems = np.ascontiguousarray(a), np.ascontiguousarray(b), np.ascontiguousarray(f)
        _steps.step_each(K.flat, problems, (following, missing, told), _useful(threads, a, _STEPPED))
    else:
        for k in range(len(a)):
            found = step_on_axes(_kernel(K, k), a[k], b[k], f[k])
            if found is None:
                told[k] = _LOST
            else:
                following[k], missing[k] = found
    return Stepped(following, missing, told.nonzero()[0])


@final
class Valued(NamedTuple):
    """The dual value of f and the best g for it, and a less the marginal of their plan; as in `Stepped`."""

    value: Array
    missing: Array
    lost: Array


def dual_value_on_grid_each(K: Kernels, a: Array, b: Array, f: Array, *, threads: int = 1) -> Valued:
    """Return the value of each row of f; only where there is compiled code."""
    assert _steps is not None
    value, missing, told = np.empty(len(a)), np.empty(a.shape), np.empty(len(a), dtype=np.int64)
    problems = np.ascontiguousarray(a), np.ascontiguousarray(b), np.ascontiguousarray(f)
    _steps.value_each(K.flat, problems, (value, missing, told), _useful(threads, a, _STEPPED))
    return Valued(value, missing, told.nonzero()[0])


def _kernel(K: Kernels, k: int) -> AxesKernel:
    return K if isinstance(K, AxesKernel) else K[k]


def _in_numpy(
    K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int, before_newton: bool = False
) -> Refined | None:
    problem = AxesProblem(K, a, b)
    ahead = newton_in_steps(len(problem.a), len(problem.b)) if before_newton else math.inf
    return sinkhorn_on_axes(problem, f, tol=tol, max_steps=max_steps, most_ahead=ahead)


def _refine_compiled(
    K: Kernels, a: Array, b: Array, f: Array | None, found: Each, *, tol: float, max_steps: int, threads: int
) -> None:
    assert _steps is not None
    told = np.empty(len(a), dtype=np.int64)
    problems = np.ascontiguousarray(a), np.ascontiguousarray(b), None if f is None else np.ascontiguousarray(f)
    results = found.f, found.g, found.error, found.steps, told
    _steps.refine_each(K.flat, problems, results, (tol, max_steps), _useful(threads, a, _REFINED))
    for k in told.nonzero()[0].tolist():
        if told[k] == _NEEDS_LOGS:
            found.f[k], found.g[k] = continued_in_logs(_kernel(K, k), a[k], b[k], found.f[k])
        elif told[k] == _UNKNOWN:
            start = None if f is None else f[k]
            found.put(k, _in_numpy(_kernel(K, k), a[k], b[k], start, tol=tol, max_steps=max_steps), f)
        else:
            found.put(k, None, f)


def _useful(threads: int, weights: Array, worth: int) -> int:
    return max(1, min(threads, len(weights), weights.size // worth))
