"""The derivatives of <C, P> with a constant plan P, in what the cost depends on: points, a matrix, parameters.

By the envelope theorem they are those of the value of transport. No n x m matrix is kept.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metaot import core
from metaot.geometry import Points
from metaot.geometry.base import allowed, expand_eps
from metaot.geometry.costs import euclidean
from metaot.potentials import DualPotentials, barycentric_map, plan_rows, source_marginal
from metaot.problem import Problem

BLOCK = 2**20
"""Entries of the rows of C that are made at once."""

_CACHED = 2**17
"""The same for derivatives in closed form, which are made in place: 1 MiB, which stays in the cache."""

_LOWEST = -1e30
"""The logarithm of nothing, of which products with zero are zero."""

SMOOTH = ("sqeuclidean", "euclidean")
"""Costs between points whose derivative in x is a factor times x - y: 2, and 1/C."""


def plan_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"] | None:
    """Return a number that has the derivatives of <C, P> for a constant P; None when C has none.

    The number is zero where derivatives are known in closed form, and else <C, P>. Each block of rows is made
    again when it is differentiated, and forgotten.
    """
    geometry = problem.geometry
    if not geometry.cost_rows(slice(0, 1)).requires_grad:
        return None
    if isinstance(geometry, Points) and geometry.cost_name in SMOOTH:
        return _BetweenPoints.apply(geometry.x, geometry.y, problem, potentials)  # type: ignore[no-any-return]

    def cost_of(rows: slice) -> Float[Tensor, "*batch"]:
        C = geometry.cost_rows(rows).to(problem.a)
        with torch.no_grad():
            P = plan_rows(problem, potentials, rows, C)
        return (allowed(C) * P).sum((-2, -1))

    parts = (
        checkpoint(cost_of, rows, use_reentrant=False, preserve_rng_state=False)
        for rows in _blocks(problem, BLOCK)
    )
    return sum(parts, torch.zeros_like(problem.a[..., 0]))


def _blocks(problem: Problem, numbers: int) -> list[slice]:
    n, m = problem.geometry.shape
    step = max(1, numbers // max(1, m * problem.batch_shape.numel()))
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def point_slopes(
    problem: Problem, potentials: DualPotentials, v: Float[Tensor, "*batch"], *, both: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Return the derivatives of the sum of v <C, P> in x and, if asked for, in y, in the shape of the clouds."""
    geometry = problem.geometry
    assert isinstance(geometry, Points)
    assert geometry.cost_name is not None
    x, y = geometry.x.detach().to(problem.a), geometry.y.detach().to(problem.a)
    origin = y.mean(-2, keepdim=True)
    x, y = x - origin, y - origin
    if geometry.cost_name == "sqeuclidean" and geometry.sums_near_points:
        slope = _slope_by_means(problem, potentials, v, (x, y))
        return slope, _slope_by_means(problem.T, potentials.T, v, (y, x)) if both else None
    eps = expand_eps(problem.eps, problem.a)
    h, k = (z / eps + w.log() for z, w in ((potentials.f, problem.a), (potentials.g, problem.b)))
    x_one, y_one = (torch.cat([z, torch.ones_like(z[..., :1])], -1) for z in (x, y))
    eps, is_squared = expand_eps(problem.eps, problem.a, 2), geometry.cost_name == "sqeuclidean"
    if is_squared and core.COMPILED and problem.a.is_cpu and problem.a.dtype == torch.float64:
        left, right = (side.numpy() for side in _factors(x, y, (h, k), eps))
        threads = torch.get_num_threads()
        sums = torch.from_numpy(core.exponential_sums(left, right, _spread(y_one, h), threads=threads))
        in_y = None
        if both:
            in_y = torch.from_numpy(core.exponential_sums(right, left, _spread(x_one, h), threads=threads))
    else:
        plan = (_squared if is_squared else _euclidean)(x, y, (h, k), eps)
        sums, in_y = _sums(problem, plan, (x_one, y_one), both=both)
    slope_x = (v[..., None, None] * (sums[..., -1:] * x - sums[..., :-1])).sum_to_size(x.shape)
    if in_y is None:
        return slope_x, None
    return slope_x, (v[..., None, None] * (in_y[..., -1:] * y - in_y[..., :-1])).sum_to_size(y.shape)


def _slope_by_means(
    problem: Problem, potentials: DualPotentials, v: Float[Tensor, "*batch"], clouds: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the derivative in x, of squared distances: 2 P 1 (x - the mean of y under the rows of P)."""
    x, y = clouds
    off = x - barycentric_map(problem, potentials, y)
    slope = 2 * source_marginal(problem, potentials)[..., None] * off
    return (v[..., None, None] * slope).sum_to_size(x.shape)


def _sums(
    problem: Problem, plan: "Rows", clouds: tuple[Tensor, Tensor], *, both: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the sums of y under the rows of a plan, and of x under its columns if asked for."""
    (x, y), in_x, in_y = clouds, [], None
    for rows in _blocks(problem, min(BLOCK, _CACHED)):
        W = plan(rows)
        in_x.append(W @ y)
        if both:
            part = W.mT @ x[..., rows, :]
            in_y = part if in_y is None else in_y + part
    return torch.cat(in_x, -2), in_y


def _spread(z: Tensor, like: Tensor) -> np.ndarray:
    """Return points in the batch of potentials, as an array."""
    return z.expand(*like.shape[:-1], *z.shape[-2:]).numpy()


Rows = Callable[[slice], Tensor]


def _factors(x: Tensor, y: Tensor, logs: tuple[Tensor, Tensor], eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return two arrays whose products are the logarithms of 2 P: the clouds with two more coordinates."""
    (h, k), one = (z.clamp_min(_LOWEST) for z in logs), torch.ones_like(logs[0][..., None])
    h = h[..., None] - x.square().sum(-1, keepdim=True) / eps + math.log(2)
    k = k[..., None] - y.square().sum(-1, keepdim=True) / eps
    scaled = 2 * x / eps
    left = torch.cat([scaled.expand(*h.shape[:-1], -1), h, one], -1)
    return left, torch.cat([y.expand(*k.shape[:-1], -1), torch.ones_like(k), k], -1)


def _squared(x: Tensor, y: Tensor, logs: tuple[Tensor, Tensor], eps: float | Tensor) -> Rows:
    """Return what makes rows of 2 P."""
    left, right = _factors(x, y, logs, eps)
    return lambda rows: (left[..., rows, :] @ right.mT).exp_()


def _euclidean(x: Tensor, y: Tensor, logs: tuple[Tensor, Tensor], eps: float | Tensor) -> Rows:
    """Return what makes rows of P/C; zeros where points coincide."""
    h, k = logs

    def rows_of(rows: slice) -> Tensor:
        C = euclidean(x[..., rows, :], y)
        P = (h[..., rows, None] + k[..., None, :] - C / eps).exp_()
        return P.mul_(torch.where(C > 0, 1 / C, 0.0))

    return rows_of


class _BetweenPoints(torch.autograd.Function):
    """Zero, with the derivatives of <C, P> in both clouds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, problem: Problem, potentials: DualPotentials) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.problem, ctx.potentials = problem, potentials
        return torch.zeros_like(problem.a[..., 0])

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        with torch.no_grad():
            slopes = point_slopes(ctx.problem, ctx.potentials, v, both=ctx.needs_input_grad[1])
        sources = ctx.saved_tensors
        in_x, in_y = (None if slope is None else FirstOnly.apply(slope, v, *sources) for slope in slopes)
        return in_x, in_y, None, None


class FirstOnly(torch.autograd.Function):
    """A derivative that depends on `sources` in a way that is not known here: to ask for that raises."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, *sources: Tensor) -> Tensor:
        return slope.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError("values of transport have first derivatives only: do not differentiate their gradient")
