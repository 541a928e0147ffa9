"""The value of a transport problem: entropic and differentiable, or the distance between two sets of samples.

By the envelope theorem, potentials and plan count as constants at the optimum: no solver is differentiated.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.geometry import Points
from metaot.objectives.dual import best_value, weight_slope
from metaot.objectives.plan_cost import FirstOnly, plan_cost
from metaot.potentials import (
    DualPotentials,
    c_transform,
    reference_mass,
    source_marginal,
    target_marginal,
    transport_cost,
)
from metaot.problem import Problem, one_problem, require_problem
from metaot.solvers import Solver, solve
from metaot.solvers.start import Start

_RELATIVE_EPS = 2e-3
"""The entropy at which the bounds of a distance are close, as a share of the mean cost."""


@one_problem
def ot_value(
    problem: Problem,
    *,
    init: Start | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Float[Tensor, "*batch"]:
    r"""Return min <C, P> + eps KL(P | a b^T), in the units of the cost, with its first derivatives.

    `init`, `solver`, `tol` and `max_steps` are those of `solve`; no derivative goes through the start.

    * In a the derivative is f - <f, a>, in b it is g - <g, b>: the value is taken at a/sum(a) and b/sum(b). An
      atom without mass has a derivative too, the rate at which the value changes when it receives mass.
    * Where a marginal has a price, which is added to the value, weights are taken as they are, and the derivative
      is $-\phi^*(-f) - \epsilon (P_{ij}/a_i - b_j)$, summed over j: see `dual_value`.
    * In C it is P, and the chain rule leads to what C depends on: the points of `Points`, parameters of a cost
      function, and, in n x m time, axes of a `Grid`. For "sphere" only the tangential part has a meaning.
    * In eps, where it is a tensor, it is KL(P | a b^T).

    Solved in float64; the result has the dtype of the weights. Blocks of rows of C and P are made again for the
    derivatives, never kept. An instance that does not converge has the dual value where it stopped, a lower bound,
    and derivatives as wrong as its marginals. Second derivatives raise RuntimeError.
    """
    exact = require_problem(problem).normalised()
    with torch.no_grad():
        f = solve(exact, init=init, solver=solver, tol=tol, max_steps=max_steps).potentials.f
        g = c_transform(exact, f)
        potentials = DualPotentials(c_transform(exact.T, g), g)
    cost = plan_cost(exact, potentials)
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
        return best_value(problem, potentials)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        problem, potentials = ctx.problem, ctx.potentials
        in_eps = None
        with torch.no_grad():
            if ctx.needs_input_grad[4]:
                in_eps = v * _divergence(problem, potentials)
            in_cost = v if ctx.needs_input_grad[5] else None
            in_a, in_b = weight_slope(problem, potentials), weight_slope(problem.T, potentials.T)
            slopes = (v[..., None] * in_a, v[..., None] * in_b, in_eps, in_cost)
        sources = ctx.saved_tensors
        return None, None, *(None if slope is None else FirstOnly.apply(slope, *sources) for slope in slopes)


def _divergence(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return KL(P | a b^T), the derivative of the value in eps."""
    if problem.is_balanced:
        return (best_value(problem, potentials) - transport_cost(problem, potentials)) / problem.eps
    source = source_marginal(problem, potentials)
    linear = (potentials.f * source).sum(-1) + (potentials.g * target_marginal(problem, potentials)).sum(-1)
    entropy = (linear - transport_cost(problem, potentials)) / problem.eps
    return entropy - source.sum(-1) + reference_mass(problem)


@torch.no_grad()
def half_squared_distance(problem: SampleProblem) -> Float[Tensor, "*batch"]:
    """Return W_2^2 / 2 between the samples, each of equal weight: a lower bound, right to one percent.

    From entropic transport at a low temperature, whose potentials are made feasible (see `Solution.bounds`),
    instance by instance.
    """
    flat, values = problem.flat().to(problem.x.double()), []
    for x, y in zip(flat.x, flat.y, strict=True):
        a, b = (torch.full_like(z[:, 0], 1 / len(z)) for z in (x, y))
        space = Points(x, y)
        discrete = Problem(a, b, space, max(_RELATIVE_EPS * float(space.mean_cost()), 1e-9))
        values.append(0.5 * solve(discrete, tol=1e-4).bounds().lower)
    return torch.stack(values).reshape(problem.batch_shape).to(problem.x)
