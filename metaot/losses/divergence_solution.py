"""What a divergence is made of: the solutions of its three transports, and the values that follow from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.status import Status, how_it_went
from metaot.geometry.base import expand_eps
from metaot.objectives.dual import dual_value
from metaot.potentials import DualPotentials, marginal_price, transport_cost
from metaot.problem import Problem
from metaot.solvers import Solution


@final
@dataclass(frozen=True)
class DivergenceSolution:
    """A batch of divergences: the solutions between both measures, and of each measure to itself.

    It is a start, `init=`, of the next divergence, and of `solve`.
    """

    between: Solution
    of_source: Solution
    of_target: Solution

    @property
    def potentials(self) -> DualPotentials:
        """The potentials between both measures."""
        return self.between.potentials

    @property
    def self_potentials(self) -> DualPotentials:
        """The potential of the source to itself, and that of the target to itself."""
        return DualPotentials(self.of_source.potentials.g, self.of_target.potentials.g)

    @cached_property
    def value(self) -> Float[Tensor, "*batch"]:
        """The divergence with entropy; of all three transports the dual value."""
        return self.value_with(self.between)

    def value_with(self, between: Solution) -> Float[Tensor, "*batch"]:
        """Return the value with another solution between both measures."""
        problem, (f, g) = between.problem, (between.potentials.f, between.potentials.g)
        if problem.is_balanced:
            return _above_self_value(f, self.of_source) + _above_self_value(g, self.of_target)
        value = dual_value(problem, between.potentials)
        value = value - (self_value(self.of_source) + self_value(self.of_target)) / 2
        return value + problem.eps / 2 * mass_difference(problem).square()

    @cached_property
    def sharp_value(self) -> Float[Tensor, "*batch"]:
        """The divergence of the transport costs <C, P>, with the prices of the marginals, without entropy."""
        between, of_source, of_target = map(_sharp_value, self._solutions)
        return between - (of_source + of_target) / 2

    @property
    def error(self) -> Float[Tensor, "*batch"]:
        """The largest L1 marginal error of the three transports of an instance."""
        return torch.stack([solution.error for solution in self._solutions]).amax(0)

    @property
    def steps(self) -> Int[Tensor, "*batch"]:
        """The steps of the solver between both measures."""
        return self.between.steps

    @property
    def self_steps(self) -> Int[Tensor, "*batch"]:
        """The symmetric steps of both measures, each of which takes half the time of a step of Sinkhorn."""
        return self.of_source.steps + self.of_target.steps

    @property
    def converged(self) -> Bool[Tensor, "*batch"]:
        """Whether all three transports of an instance converged."""
        return torch.stack([solution.converged for solution in self._solutions]).all(0)

    @cached_property
    def status(self) -> Status:
        """The worst status of the batch."""
        ended = torch.stack([solution.steps >= solution.max_steps for solution in self._solutions]).any(0)
        return Status.worst(self.converged, self.error, ended)

    @property
    def _solutions(self) -> tuple[Solution, Solution, Solution]:
        return self.between, self.of_source, self.of_target

    def __repr__(self) -> str:
        return f"DivergenceSolution of {how_it_went(self.between.problem.geometry.words, self)}"


def _sharp_value(solution: Solution) -> Float[Tensor, "*batch"]:
    problem, potentials = solution.problem, solution.potentials
    return transport_cost(problem, potentials) + marginal_price(problem, potentials)


def mass_difference(problem: Problem) -> Float[Tensor, "*batch"]:
    return problem.a.sum(-1) - problem.b.sum(-1)


def self_value(solution: Solution) -> Float[Tensor, "*batch"]:
    """Return the dual value of (f, f), which with that of `value` makes a divergence that is never negative."""
    if solution.problem.is_balanced:
        return -2 * _above_self_value(0.0, solution)
    f = solution.potentials.f
    return dual_value(solution.problem, DualPotentials(f, f))


def _above_self_value(f: Tensor | float, solution: Solution) -> Float[Tensor, "*batch"]:
    """Return <f, a> less half of the dual value of a balanced problem of a measure to itself."""
    problem, own = solution.problem, solution.potentials
    eps = expand_eps(problem.eps, own.f)
    return (problem.a * (f - own.f + ((own.f - own.g) / eps).expm1() * (eps / 2))).sum(-1)
