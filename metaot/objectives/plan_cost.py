"""The derivatives of <C, P> with a constant plan P, in what the cost depends on: points, a matrix, parameters.

By the envelope theorem they are those of the value of transport. No n x m matrix is kept.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metaot.geometry import Points
from metaot.geometry.base import allowed, expand_eps
from metaot.geometry.costs import COSTS
from metaot.potentials import DualPotentials, plan_rows
from metaot.problem import Problem

BLOCK = 2**20
"""Entries of the rows of C that are made at once."""

_CACHED = 2**17
"""The same for derivatives in closed form, which are made in place: 1 MiB, which stays in the cache."""

_SLOPES = {"sqeuclidean": lambda C: 2.0, "euclidean": lambda C: torch.where(C > 0, 1 / C, 0.0)}
"""Costs whose derivative in x is a factor times x - y, and the factor."""


def plan_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"] | None:
    """Return a number that has the derivatives of <C, P> for a constant P; None when C has none.

    The number is zero where derivatives are known in closed form, and else <C, P>. Each block of rows is made
    again when it is differentiated, and forgotten.
    """
    geometry = problem.geometry
    if not geometry.cost_rows(slice(0, 1)).requires_grad:
        return None
    if isinstance(geometry, Points) and geometry.cost_name in _SLOPES:
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
    cost, slope = COSTS[geometry.cost_name], _SLOPES[geometry.cost_name]
    in_x, in_y = [], None
    eps = expand_eps(problem.eps, problem.a)
    f, g = (h + eps * w.log() for h, w in ((potentials.f, problem.a), (potentials.g, problem.b)))
    for rows in _blocks(problem, min(BLOCK, _CACHED)):
        C = cost(x[..., rows, :], y)
        W = (f[..., rows, None] + g[..., None, :]).sub_(C).div_(expand_eps(problem.eps, C, 2)).exp_()
        W.mul_(slope(C)).mul_(v[..., None, None])
        in_x.append(W.sum(-1)[..., None] * x[..., rows, :] - W @ y)
        if both:
            part = W.sum(-2)[..., None] * y - W.mT @ x[..., rows, :]
            in_y = part if in_y is None else in_y + part
    both_sides = (torch.cat(in_x, -2), in_y)
    found = [None if s is None else s.sum_to_size(z.shape) for s, z in zip(both_sides, (x, y), strict=True)]
    assert found[0] is not None
    return found[0], found[1]


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
