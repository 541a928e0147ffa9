r"""Sinkhorn divergences: entropic transport without its bias (Feydy et al., arXiv 1810.08278).

    S(a, b) = OT(a, b) - OT(a, a)/2 - OT(b, b)/2

It is zero for equal measures, and positive otherwise where the kernel exp(-C/eps) is positive definite, as for all
costs with a name. The transport of a measure to itself takes a few symmetric steps (`metaot.solvers.Symmetric`).
Where marginals have a price, eps/2 times the squared difference of the masses is added (Sejourne et al., arXiv
1910.12958).
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.arrays import ArrayLike, require_limits, wrong
from metaot.core.method import Limits, Result
from metaot.geometry import Dense, Geometry, Points
from metaot.geometry.base import replaced
from metaot.geometry.checks import tensor
from metaot.losses.divergence_solution import DivergenceSolution, mass_difference
from metaot.objectives.dual import weight_slope
from metaot.objectives.plan_cost import FirstOnly, plan_cost
from metaot.potentials import DualPotentials
from metaot.problem import Problem, one_problem, require_problem
from metaot.solvers import Solution, Solver, solve
from metaot.solvers.solve import solve_with_selves
from metaot.solvers.start import Start
from metaot.solvers.symmetric import asymmetry

SelfCosts = tuple[ArrayLike | Geometry, ArrayLike | Geometry]
"""The costs of the source's atoms among themselves, and of the target's."""


@one_problem
def sinkhorn_divergence(
    problem: Problem,
    *,
    init: DivergenceSolution | Start | None = None,
    self_costs: SelfCosts | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Float[Tensor, "*batch"]:
    r"""Return OT(a, b) - OT(a, a)/2 - OT(b, b)/2 with entropy, in the units of the cost, with first derivatives.

    OT is the value of `metaot.ot_value`. The derivative in a is the difference of two potentials, between both
    measures and of a to itself, less its mean; in points, a cost matrix, parameters of a cost function and eps it
    follows by the envelope theorem.

    Where marginals have a price, the same on both sides, $\epsilon (m_a - m_b)^2/2$ is added, m the masses; the
    divergence is then zero for equal measures, and not negative.

    Feydy et al., arXiv 1810.08278, equation 3; with prices Sejourne et al., arXiv 1910.12958. Second derivatives
    raise RuntimeError. The arguments are those of `solve_divergence`. Solved in float64; the
    result has the dtype of the weights.
    """
    exact = require_problem(problem).normalised()
    spaces = self_spaces(exact, self_costs)
    found = _solve(exact, spaces, init, (solver, tol, max_steps))
    return _with_slopes(exact, spaces, found).to(problem.a)


@one_problem
def sharp_sinkhorn_divergence(
    problem: Problem,
    *,
    init: DivergenceSolution | Start | None = None,
    self_costs: SelfCosts | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Float[Tensor, "*batch"]:
    """Return the divergence of the transport costs <C, P>, without entropy; a number that has no derivatives.

    Where marginals have a price it is a part of the costs. The arguments are those of `solve_divergence`. To
    minimise a divergence take `sinkhorn_divergence`.
    """
    exact = require_problem(problem).normalised()
    with torch.no_grad():
        found = _solve(exact, self_spaces(exact, self_costs), init, (solver, tol, max_steps))
        return found.sharp_value.to(problem.a)


@one_problem
def solve_divergence(
    problem: Problem,
    *,
    init: DivergenceSolution | Start | None = None,
    self_costs: SelfCosts | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> DivergenceSolution:
    """Solve the three transports of a divergence, each to an L1 marginal error of at most `tol`.

    `init` is the solution of an earlier divergence between as many atoms, or what `solve` takes, for the transport
    between both measures. `solver`, `tol` and `max_steps` are those of `solve`; a measure to itself is solved by
    `Symmetric` steps.

    `self_costs` are the costs of the source's atoms among themselves and of the target's, matrices or geometries:
    a `Dense` geometry needs them, unless it is one set of atoms (a symmetric matrix, zero on its diagonal).

    Not converging is a result. Raises ValueError for costs of one side that are not symmetric, and for prices that
    differ between the sides; TypeError for arguments of another kind.

        found = metaot.losses.solve_divergence(problem)
        found.value, found.error, found.converged  # each *batch
    """
    exact = require_problem(problem).normalised()
    return _solve(exact, self_spaces(exact, self_costs), init, (solver, tol, max_steps))


def self_spaces(problem: Problem, self_costs: SelfCosts | None) -> tuple[Geometry, Geometry]:
    """Return the spaces of the source with itself and of the target with itself."""
    if not problem.marginals.are_alike:
        sides = f"({problem.marginals.source}, {problem.marginals.target})"
        raise ValueError(f"a divergence takes one price for the marginals of both sides, got {sides}")
    spaces = _of_each_side(problem) if self_costs is None else _given_spaces(problem, self_costs)
    for side, space in zip(("source", "target"), spaces, strict=True):
        # between equal points, costs with a name are symmetric
        where = None if self_costs is None and space.cost_name is not None else asymmetry(space)
        if where:
            raise ValueError(
                f"a divergence needs symmetric costs of the {side}'s atoms among themselves, got {where}"
            )
    return spaces


def _of_each_side(problem: Problem) -> tuple[Geometry, Geometry]:
    spaces = problem.geometry.of_each_side
    if spaces is None:
        raise ValueError(
            f"a divergence needs the costs of each side's atoms among themselves, unlike {problem.geometry}: "
            "pass self_costs=(C_xx, C_yy)"
        )
    return spaces


def _given_spaces(problem: Problem, self_costs: object) -> tuple[Geometry, Geometry]:
    if not isinstance(self_costs, tuple | list) or len(self_costs) != 2:
        raise wrong("self_costs", "a pair (C_xx, C_yy) of matrices or geometries", self_costs)
    names = "C_xx in self_costs", "C_yy in self_costs"
    given = [
        space if isinstance(space, Geometry) else Dense(tensor(name, space))
        for name, space in zip(names, self_costs, strict=True)
    ]
    for name, space, size in zip(names, given, problem.geometry.shape, strict=True):
        if space.shape != (size, size) or space.batch_shape not in ((), problem.batch_shape):
            shape = (*space.batch_shape, *space.shape)
            raise ValueError(f"{name} must be costs of {size} x {size} atoms, got the shape {shape}")
    return given[0].to(problem.a), given[1].to(problem.a)


@torch.no_grad()
def _solve(
    exact: Problem,
    spaces: tuple[Geometry, Geometry],
    init: object,
    how: tuple[Solver | None, float, int],
) -> DivergenceSolution:
    """Solve the three transports; a negative value begins anew where both measures are their own.

    There the dual value is so high that the divergence is not negative, whatever the error of the self terms.
    """
    solver, (tol, max_steps) = how[0], require_limits(*how[1:])
    starts: list[Any] = [init, None, None]
    if isinstance(init, DivergenceSolution):
        starts = [init.between, init.of_source, init.of_target]
    selves = to_itself(exact, exact.a, spaces[0]), to_itself(exact, exact.b, spaces[1])
    solutions, results = solve_with_selves(exact, selves, starts, solver, Limits(tol, max_steps))
    found = DivergenceSolution(*solutions)
    if exact.is_balanced and bool((_least_values(exact, results) >= 0).all()):
        return found
    negative = found.value < 0
    if not bool(negative.any()):
        return found
    near = DualPotentials(found.of_source.potentials.f, found.of_target.potentials.f)
    better = solve(exact, init=near, solver=solver, tol=tol, max_steps=max_steps)
    return replace(
        found, between=_where(negative & (found.value_with(better) > found.value), better, found.between)
    )


def _least_values(exact: Problem, results: list[Result]) -> Any:
    """Return numbers just below the values, in a part of the time: of the error z of an atom, not e^z - 1."""
    between, *own = results
    weights = exact.flat().a.detach(), exact.flat().b.detach()
    weights = [w if isinstance(between.f, Tensor) else w.numpy() for w in weights]
    sides = zip((between.f, between.g), own, weights, strict=True)
    source, target = (((h - (side.f + side.g) / 2) * w).sum(-1) for h, side, w in sides)
    return source + target


def to_itself(problem: Problem, weights: Float[Tensor, "*batch n"], space: Geometry) -> Problem:
    """Return the problem of one of its measures with itself."""
    return Problem.trusted(weights, weights, space, problem.eps, problem.marginals)


def _where(which: Bool[Tensor, "*batch"], first: Solution, second: Solution) -> Solution:
    """Return the first solution for some instances, and the second for the others."""
    f, g = (
        torch.where(which[..., None], getattr(first.potentials, name), getattr(second.potentials, name))
        for name in "fg"
    )
    error, steps = torch.where(which, first.error, second.error), torch.where(which, first.steps, 0) + second.steps
    converged = torch.where(which, first.converged, second.converged)
    return Solution(
        second.problem, DualPotentials(f, g), error, converged, steps, second.solvers, second.max_steps
    )


def _with_slopes(
    exact: Problem, spaces: tuple[Geometry, Geometry], found: DivergenceSolution
) -> Float[Tensor, "*batch"]:
    """Return the value with its derivatives in weights, eps and costs."""
    potentials = found.potentials
    costs = [(plan_cost(exact, potentials), 1.0)]
    for space, solution in zip(spaces, (found.of_source, found.of_target), strict=True):
        itself = solution.problem
        shared = DualPotentials(solution.potentials.f, solution.potentials.f)
        if isinstance(space, Points) and space.cost_name is not None:  # both sides have the same derivative
            half = to_itself(itself, itself.a, replaced(space, y=space.y.detach()))
            costs.append((plan_cost(half, shared), -1.0))
        else:
            costs.append((plan_cost(to_itself(itself, itself.a, space), shared), -0.5))
    in_eps = None
    if isinstance(exact.eps, Tensor) and exact.eps.requires_grad:
        with torch.no_grad():
            in_eps = (found.value - found.sharp_value) / exact.eps
    in_weights = weight_slopes(found) if exact.a.requires_grad or exact.b.requires_grad else (None, None)
    slopes = (*in_weights, in_eps, *(share for _, share in costs))
    parts = (exact.a, exact.b, exact.eps, *(cost for cost, _ in costs))
    return _FirstOrder.apply(found.value, slopes, *parts)  # type: ignore[no-any-return]


@torch.no_grad()
def weight_slopes(found: DivergenceSolution) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch m"]]:
    """Return the derivatives of the value in a and b, but for constants where masses are one."""
    problem, potentials, own = found.between.problem, found.potentials, found.self_potentials
    if problem.is_balanced:
        return potentials.f - own.f, potentials.g - own.g
    in_mass = (problem.eps * mass_difference(problem))[..., None]
    own_a = weight_slope(found.of_source.problem, DualPotentials(own.f, own.f))
    own_b = weight_slope(found.of_target.problem, DualPotentials(own.g, own.g))
    in_a, in_b = weight_slope(problem, potentials), weight_slope(problem.T, potentials.T)
    return in_a - own_a + in_mass, in_b - own_b - in_mass


class _FirstOrder(torch.autograd.Function):
    """A value whose derivative in each part is given."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: tuple[Any, ...], *parts: Any) -> Tensor:
        ctx.slopes = slopes
        ctx.save_for_backward(*(part for part in parts if isinstance(part, Tensor)))
        return value.clone()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        found: list[Tensor | None] = []
        for slope, wanted in zip(ctx.slopes, ctx.needs_input_grad[2:], strict=True):
            if not wanted or slope is None:
                found.append(None)
            else:
                per_atom = isinstance(slope, Tensor) and slope.ndim > v.ndim
                with torch.no_grad():
                    product = (v[..., None] if per_atom else v) * slope
                found.append(FirstOnly.apply(product, v, *ctx.saved_tensors))  # type: ignore[arg-type]
        return None, None, *found
