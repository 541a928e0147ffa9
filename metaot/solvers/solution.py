"""What every solve returns: potentials, for each instance how well and how fast it went, and bounds of the cost.

The bounds are of the cost without entropy, from any potentials: from below by potentials that are feasible for the
linear programme, from above by a plan that is: the rounding of Altschuler, Weed and Rigollet (arXiv 1705.09634,
algorithm 2).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.core.method import EVERY, Limits
from metaot.core.status import Status, how_it_went
from metaot.entropic_map import EntropicMap, projected
from metaot.geometry.base import expand_eps
from metaot.geometry.checks import tensor
from metaot.objectives import dual_value
from metaot.potentials import (
    DualPotentials,
    PotentialsLike,
    as_potentials,
    barycentric_map,
    c_transform,
    centred,
    duality_gap,
    mean_costs,
    plan,
    source_marginal,
    target_marginal,
    transport_cost,
)
from metaot.problem import Problem, require_balanced
from metaot.solvers.in_torch import InTorch

_ROUNDING, _NEWTON_STEPS = 1e-11, 50
"""Error of marginals that count as exact; the most steps to it."""


@final
@dataclass(frozen=True)
class Bounds:
    """Numbers in the units of the cost with min <C, P>, over the plans with marginals a and b, between them."""

    lower: Float[Tensor, "*batch"]
    upper: Float[Tensor, "*batch"]

    @property
    def gap(self) -> Float[Tensor, "*batch"]:
        """How far either bound may be from the cost; below zero only by rounding."""
        return self.upper - self.lower


@final
@dataclass(frozen=True)
class Solution:
    """Refined potentials of a batch of problems.

    `error` is the L1 error of both marginals of the potentials, measured in float64: where they have a price, from
    what the potentials ask for, relative to the mass of the plan (see `metaot.potentials.marginal_error`). `steps`
    are those of the instance, of at most `max_steps` (0: unknown, of another library); `solvers` are the methods
    that took part.
    Not converging is a result.
    """

    problem: Problem
    potentials: DualPotentials
    error: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]
    solvers: tuple[object, ...]
    max_steps: int = 0

    @cached_property
    def status(self) -> Status:
        """The worst status of the batch."""
        return Status.worst(self.converged, self.error, self.steps >= self.max_steps)

    @cached_property
    def value(self) -> Float[Tensor, "*batch"]:
        """The dual value: a lower bound of min <C, P> + eps KL(P | a b^T), equal to it at the solution."""
        with torch.no_grad():
            return dual_value(self.problem, self.potentials)

    @torch.no_grad()
    def cost(self) -> Float[Tensor, "*batch"]:
        """Return <C, P>, without the plan."""
        return transport_cost(self.problem, self.potentials)

    @torch.no_grad()
    def mass(self) -> Float[Tensor, "*batch"]:
        """Return the mass of P, without the plan: of a balanced problem, one."""
        return source_marginal(self.problem, self.potentials).sum(-1)

    @torch.no_grad()
    def gap(self) -> Float[Tensor, "*batch"]:
        """Return the primal value of P less the dual value of the potentials: how far P is from optimal at most.

        In the units of the cost. Where a marginal must be exact, the gap is that of a plan whose marginal is.
        """
        return duality_gap(self.problem, self.potentials)

    def bounds(self) -> Bounds:
        """Return `transport_bounds` of min <C, P> without entropy; they hold whether or not it converged.

        ValueError where marginals have a price: `value` and `gap` bound the problem with entropy there.
        """
        return transport_bounds(self.problem, self.potentials)

    @torch.no_grad()
    def plan(self) -> Float[Tensor, "*batch n m"]:
        """Return the whole of P: batch x n x m numbers."""
        return plan(self.problem, self.potentials)

    def transport(self, values: ArrayLike | None = None) -> Float[Tensor, "*batch n k"]:
        """Return where each source atom is sent, as `map()` sends points; of other `values`, their mean.

        Values are m k, or *batch m k. Differentiable in them, for a plan that is constant.
        """
        g = self.potentials.g
        if values is None:
            if self.problem.geometry.points is None:
                raise ValueError(
                    "a Dense geometry has no coordinates: pass the values on the target to be averaged"
                )
            with torch.no_grad():
                return projected(self.problem, g)
        v = tensor("values", values, like=g, taken="values on the target's atoms, m k").to(g)
        m = self.problem.geometry.shape[1]
        if v.ndim < 2 or v.shape[-2] != m:
            line = ": of one number for each atom take [..., None]" if v.shape[-1:] == (m,) else ""
            raise ValueError(f"values must have the shape (*batch, {m}, k), got {tuple(v.shape)}{line}")
        with torch.set_grad_enabled(torch.is_grad_enabled() and v.requires_grad):
            return barycentric_map(self.problem, self.potentials, v)

    def map(self) -> EntropicMap:
        """Return the map that sends any points of the source's space to the target's, and back."""
        return EntropicMap(self.problem, self.potentials)

    def __repr__(self) -> str:
        return f"Solution of {how_it_went(self.problem.geometry.words, self)}"


@torch.no_grad()
def transport_bounds(problem: Problem, potentials: PotentialsLike) -> Bounds:
    """Bound min <C, P> over the plans with marginals a and b, in float64; the bounds hold whatever eps is.

    They hold for all potentials, of a prediction or of a solution, up to rounding (a relative error of about
    1e-16 max |potentials|/eps). Of an exact solution, the gap is at most eps times the entropy of the plan given a
    marginal, the smaller of the two, and so at most eps log(atoms with mass on either side).

    Masses are made one, with coordinates or the matrix as the problem's dtype holds them. NaN in the potentials of
    an atom with mass gives NaN for its instance. No n x m matrix is made on a grid or for large clouds. Where
    forbidden pairs leave no plan, `upper` is +inf; `lower` is +inf where an atom with mass reaches no mass.
    ValueError where marginals have a price: mass then need not be moved at all.
    """
    potentials = as_potentials(require_balanced(problem, "bounds of the transport cost"), potentials)
    problem = problem.normalised()
    f = torch.where(problem.a > 0, potentials.f.to(problem.a), 0.0)
    g = torch.where(problem.b > 0, potentials.g.to(problem.b), 0.0)
    level = (g * problem.b).sum(-1, keepdim=True)
    f, g = f + level, g - level
    lower = torch.maximum(_feasible_value(problem, centred(problem.a, f)), _feasible_value(problem.T, g))
    return Bounds(lower, _rounded_cost(problem, DualPotentials(f, g)))


def _feasible_value(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return <f, a> + <g, b> for potentials near f with f_i + g_j <= C_ij wherever a_i and b_j are not zero.

    The start is f + eps log a, as in the soft transform: the hard one is then the larger of the two, and only the
    entropy of the plan given b is lost. Atoms without mass start at -inf, and take no part.
    """
    g = problem.geometry.T.hardmin(f + expand_eps(problem.eps, f) * problem.a.log())
    f = problem.geometry.hardmin(torch.where(problem.b > 0, g, -torch.inf))
    value = _weighted_sum(problem.a, f) + _weighted_sum(problem.b, g)
    unreached = ((g == torch.inf) & (problem.b > 0)).any(-1)
    return torch.where(unreached, torch.inf, value)


def _weighted_sum(weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    return torch.where(weights > 0, weights * f, 0.0).sum(-1)


def _rounded_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P> for a plan near that of the potentials whose marginals are a and b.

    Rows with too much mass are scaled down, then columns: min(1, a/P1) is, in the log domain, the minimum with the
    best potential. The missing mass is added as a plan between what is missing on either side: their product, or
    between large clouds one along a curve.
    """
    f = torch.minimum(potentials.f, c_transform(problem.T, potentials.g))
    g = torch.minimum(potentials.g, c_transform(problem, f))
    scaled = DualPotentials(f, g)
    source = source_marginal(problem, scaled)
    missing_a = (problem.a - source).clamp_min(0)
    missing_b = (problem.b - target_marginal(problem, scaled)).clamp_min(0)
    moved = (source * mean_costs(problem, g)).sum(-1)
    upper = moved + problem.geometry.cost_of_a_plan(missing_a, missing_b)
    forbidden = (upper == torch.inf).reshape(-1)
    if not bool(forbidden.any()):
        return upper
    upper = upper.flatten()
    upper[forbidden] = _allowed_cost(problem.flat()[forbidden], f.reshape(-1, f.shape[-1])[forbidden])
    return upper.reshape(problem.batch_shape)


def _allowed_cost(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
    """Return <C, P> for potentials that Newton's method has made exact; +inf where it finds no plan.

    Missing mass could not be added as a product: that uses forbidden pairs.
    """
    exact = InTorch(problem).newton(EVERY, f, Limits(_ROUNDING / 10, _NEWTON_STEPS))
    cost = transport_cost(problem, DualPotentials(exact.f, exact.g))
    return torch.where(exact.error <= _ROUNDING, cost, torch.inf)
