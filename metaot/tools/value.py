"""The value of an entropic transport problem, as a differentiable function of what the problem is made of.

By the envelope theorem, potentials and plan count as constants at the optimum: no solver is differentiated.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metaot.geometry.base import allowed, expand_eps
from metaot.objectives.dual import linear_value
from metaot.potentials import DualPotentials, c_transform, tilted, transport_cost
from metaot.problem import Problem
from metaot.solvers import Solver, solve
from metaot.solvers.solve import PotentialPredictor

_BLOCK = 2**20
"""Entries of the plan that are made at once: 8 MiB."""


def ot_value(
    problem: Problem,
    *,
    init: DualPotentials | PotentialPredictor | None = None,
    solver: Solver | None = None,
    tol: float = 1e-9,
    max_steps: int = 10_000,
) -> Float[Tensor, "*batch"]:
    r"""Return min <C, P> + eps KL(P | a b^T), in the units of the cost, with its first derivatives.

    `init`, `solver`, `tol` and `max_steps` are those of `solve`; no derivative goes through the start.

    * In a the derivative is f - <f, a>, in b it is g - <g, b>. Weights keep their mass, so a constant is free: it
      is that of the value at a/sum(a) and b/sum(b), which is what is returned. Atoms without mass have derivatives
      too, the rate at which the value changes when they receive some.
    * In C it is P. The chain rule goes on from there: to the points of `Points`, to parameters of a cost function,
      to all that a matrix was computed from. Of "sphere", the tangential part has a meaning. A `Grid` has nothing
      to go on to, unless its axes or its cost require derivatives; these take n x m time.
    * In eps, where it is a tensor, it is KL(P | a b^T).

    The work is done in float64; the result has the dtype of the weights. C and P are made in blocks of rows, again
    for the derivatives, and never kept. An instance that does not converge has the dual value where it stopped, a
    lower bound, and derivatives that are as wrong as its marginals. Second derivatives raise RuntimeError.
    """
    exact = problem.normalised()
    with torch.no_grad():
        f = solve(exact, init=init, solver=solver, tol=tol, max_steps=max_steps).potentials.f
        g = c_transform(exact, f)
        potentials = DualPotentials(c_transform(exact.T, g), g)
    cost = _cost_of_the_plan(exact, potentials)
    value: Tensor = _Envelope.apply(exact, potentials, exact.a, exact.b, exact.eps, cost)  # type: ignore[assignment]
    return value.to(problem.a)


class _Envelope(torch.autograd.Function):
    """The value; its derivatives in a, b, eps, and in <C, P>, of which the plan is constant."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, potentials: DualPotentials, *parts: Tensor | float | None
    ) -> Float[Tensor, "*batch"]:
        ctx.save_for_backward(*(part for part in parts if isinstance(part, Tensor)))
        ctx.problem, ctx.potentials = problem, potentials
        return linear_value(problem, potentials)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        problem, potentials = ctx.problem, ctx.potentials
        with torch.no_grad():
            slopes = (
                v[..., None] * potentials.f,
                v[..., None] * potentials.g,
                v * _divergence(problem, potentials) if ctx.needs_input_grad[4] else None,
                v if ctx.needs_input_grad[5] else None,
            )
        sources = ctx.saved_tensors
        return None, None, *(None if slope is None else _FirstOnly.apply(slope, *sources) for slope in slopes)


class _FirstOnly(torch.autograd.Function):
    """A derivative that depends on `sources` in a way that is not known here: to ask for that raises."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, *sources: Tensor) -> Tensor:
        return slope.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError("ot_value has first derivatives only: do not differentiate its gradient")


def _divergence(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return KL(P | a b^T) at the optimum."""
    return (linear_value(problem, potentials) - transport_cost(problem, potentials)) / problem.eps


def _cost_of_the_plan(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"] | None:
    """Return <C, P> with the derivatives of C and a constant P; None when C has none.

    Each block of rows is made again when it is differentiated, and forgotten.
    """
    geometry, (n, m) = problem.geometry, problem.geometry.shape
    if not geometry.cost_rows(slice(0, 1)).requires_grad:
        return None
    step = max(1, _BLOCK // max(1, m * problem.batch_shape.numel()))
    total = torch.zeros((), dtype=problem.a.dtype, device=problem.a.device)
    for start in range(0, n, step):
        rows = slice(start, min(n, start + step))
        part = checkpoint(_cost_of_rows, problem, potentials, rows, use_reentrant=False, preserve_rng_state=False)
        total = total + part
    return total


def _cost_of_rows(problem: Problem, potentials: DualPotentials, rows: slice) -> Float[Tensor, "*batch"]:
    C = problem.geometry.cost_rows(rows).to(problem.a.dtype)
    with torch.no_grad():
        exponent = potentials.f[..., rows, None] + potentials.g[..., None, :] - C
        weights = problem.a[..., rows, None] * problem.b[..., None, :]
        P = tilted(weights, exponent / expand_eps(problem.eps, C, 2))
    return (allowed(C) * P).sum((-2, -1))
