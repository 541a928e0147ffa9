"""The loop: step, note what is done, go on with the rest; potentials on all atoms in the end."""

import math
from typing import NamedTuple, final

import numpy as np

from metaot.single.axes import AxesProblem, sinkhorn_on_axes
from metaot.single.axes_kernel import AxesKernel
from metaot.single.plan import Array, Refined
from metaot.single.together.batch import Batch
from metaot.single.together.path import Path
from metaot.single.together.scalings import Scalings, first_scalings

_TOGETHER = 2**15
"""Atoms on the grids of all problems that step together: what is known of them fits into the cache."""

_SMALL = 2048
"""Atoms of the largest grid on which many problems are quicker together than one by one."""

_OFTEN = 8
"""Steps after which it is looked whether sums are right."""


@final
class Together(NamedTuple):
    """What became of problems, a row for each: potentials on all atoms, the L1 error and the steps.

    Those that are not `finished` came so far together, and may go on alone from f.
    """

    f: Array
    g: Array
    error: Array
    steps: Array
    finished: Array


def sinkhorn_together(
    K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int
) -> Together:
    """Step from f, or from zeros where these are the better start, until errors are at most `tol`.

    Weights and potentials, in units of eps, are on the whole grid, a row for each problem; there is one at least.
    """
    count, n = a.shape
    if count == 1 or n > _SMALL:
        return _joined([
            _single(K, a[k], b[k], None if f is None else f[k], tol=tol, max_steps=max_steps) for k in range(count)
        ])  # fmt: skip
    return _joined([
        _several(K, a[part], b[part], None if f is None else f[part], tol=tol, max_steps=max_steps)
        for part in np.array_split(np.arange(count), -(-a.size // _TOGETHER))
    ])  # fmt: skip


def _joined(parts: list[Together]) -> Together:
    return parts[0] if len(parts) == 1 else Together(*map(np.concatenate, zip(*parts, strict=True)))


@np.errstate(all="ignore")
def _several(K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int) -> Together:
    whole = Batch.of(K, a, b)
    now = first_scalings(whole, f)
    finished = now.may_go_on()
    x, taken = _stepped(now, tol=tol, max_steps=max_steps)
    end = Scalings(whole, x)
    potentials, right = end.potentials(), end.are_right()
    potentials[0][~right] = 0.0 if f is None else f[~right]
    return Together(*potentials, end.error, taken, finished & right & (end.error <= tol))


def _single(K: AxesKernel, a: Array, b: Array, f: Array | None, *, tol: float, max_steps: int) -> Together:
    found = sinkhorn_on_axes(AxesProblem(K, a, b), f, tol=tol, max_steps=max_steps)
    if found is None:
        found = Refined(np.zeros_like(a) if f is None else f, np.zeros_like(b), math.inf, 0)
    error = np.full(1, found.error)
    return Together(found.f[None], found.g[None], error, np.full(1, found.steps), error <= tol)


def _stepped(now: Scalings, *, tol: float, max_steps: int) -> tuple[Array, Array]:
    """Return the point to which each problem came, and its steps."""
    found, taken = now.x.copy(), np.zeros(len(now.x), dtype=np.int64)
    path, alive, steps = Path(now.batch.source.weights), np.arange(len(now.x)), 0
    going = now.may_go_on()
    while True:
        strayed = path.strayed(now.x, now.error)
        if steps % _OFTEN == 0:
            strayed |= ~now.may_go_on()
        stopped = going & ((now.error <= tol) | strayed | (steps >= max_steps))
        if stopped.any():
            k, width = alive[stopped], now.batch.source.width
            found[k, :width], taken[k] = path.nearest(stopped), steps
            going &= ~stopped
        if not going.any():
            return found, taken
        batch, x, residual = now.batch, now.x, now.residual
        if 2 * int(going.sum()) <= len(going):
            batch = batch.part(going)
            width = batch.source.width
            path, alive = path.part(going, width), alive[going]
            x, residual, going = x[going, :width], residual[going, :width], going[going]
        now = Scalings(batch, path.next(x, residual))
        steps += 1
