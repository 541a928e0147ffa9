"""What every solve returns: potentials, and for each instance how well and how fast it went."""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import final

from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, barycentric_map, plan, transport_cost
from metaot.problem import Problem
from metaot.solvers.bounds import Bounds, transport_bounds


class Status(IntEnum):
    """How a solve ended; of a batch, the worst of its instances."""

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    """No plan is finite: weights are not, or forbidden pairs leave none."""
    STALLED = 3
    """The error stays above the tolerance, which the dtype cannot reach."""

    @classmethod
    def worst(
        cls, converged: Bool[Tensor, "*batch"], error: Float[Tensor, "*batch"], exhausted: Bool[Tensor, "*batch"]
    ) -> "Status":
        """Return the status of a batch; `exhausted` are instances that have made all steps."""
        if bool(converged.all()):
            return cls.CONVERGED
        if not bool(error.isfinite().all()):
            return cls.NONFINITE
        return cls.MAX_STEPS if bool((exhausted & ~converged).any()) else cls.STALLED


@final
@dataclass(frozen=True)
class Solution:
    """Refined potentials of a batch of problems.

    `error` is the L1 error of both marginals of the potentials, measured in float64; `steps` are those of the
    instance, of at most `max_steps` (0: unknown, of another library); `solvers` are the methods that took part.
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
        return dual_value(self.problem, self.potentials)

    def cost(self) -> Float[Tensor, "*batch"]:
        """Return <C, P>, without the plan."""
        return transport_cost(self.problem, self.potentials)

    def bounds(self) -> Bounds:
        """Return a lower and an upper bound of min <C, P> without entropy, converged or not, in float64.

        Unlike `value` and `cost`, they do not depend on eps for their truth, only for how close they are; see
        `transport_bounds`.
        """
        return transport_bounds(self.problem, self.potentials)

    def plan(self) -> Float[Tensor, "*batch n m"]:
        """Return the whole of P: batch x n x m numbers."""
        return plan(self.problem, self.potentials)

    def transport(self, values: Float[Tensor, "*#batch m k"] | None = None) -> Float[Tensor, "*batch n k"]:
        """Return the mean of `values` that each source atom is sent to; by default of the coordinates."""
        if values is None:
            points = self.problem.geometry.points
            if points is None:
                raise ValueError(
                    "a Dense geometry has no coordinates: pass the values on the target to be averaged"
                )
            values = points[1].to(self.potentials.g)
        return barycentric_map(self.problem, self.potentials, values)
