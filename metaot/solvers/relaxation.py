"""How far to over-relax: first by expectation, then as the observed rate of Sinkhorn's algorithm asks for.

Near the solution an over-relaxed step is linear. If plain steps shrink the error by theta, steps with the factor
omega shrink it by the larger root r of (r + omega - 1)^2 = r omega^2 theta, until omega = 2/(1 + sqrt(1 - theta)),
where r = omega - 1; above that it grows again (Young's theory of over-relaxation; Lehmann, von Renesse, Sambale
and Uschmajew, arXiv 2012.12562). The factor to set out with is the best one for Gaussian measures between which
the cost varies as much (`metaot.single.relaxation.expected_factor`).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.potentials import centred
from metaot.problem import Problem
from metaot.single.relaxation import LOST

_LARGEST = 1.97
"""Over-relaxation converges for factors below 2."""

_NEAR = 0.5
"""The factor is raised where the L1 error is smaller: farther away, a rate tells little of what comes."""


@final
@dataclass(frozen=True)
class Relaxation:
    """The factor of each instance, and the error `since` some step, from which the rate is taken."""

    omega: Float[Tensor, "batch"]
    expected: Float[Tensor, "batch"]
    """The least factor near the solution, until it has been taken; then zero."""
    fresh: Bool[Tensor, "batch"]
    """Which instances have taken it since the reference: of them, the next rate tells nothing."""
    reference: Float[Tensor, "batch"]
    since: int
    """The step of the reference; -1 while there is none for this omega."""
    changed: int
    """The step of the last change."""

    waiting: bool
    """Whether there is an instance that has not taken the expected factor."""
    plain: bool
    """Whether all factors are still one."""

    @classmethod
    def expecting(cls, expected: Float[Tensor, "batch"]) -> "Relaxation":
        """Return the factor one, until an error shows that the solution is near."""
        one, none = torch.ones_like(expected), torch.zeros_like(expected, dtype=torch.bool)
        return cls(one, expected, none, one, since=-1, changed=0, waiting=True, plain=True)

    def __getitem__(self, index: Tensor) -> "Relaxation":
        batched = (self.omega, self.expected, self.fresh, self.reference)
        omega, expected, fresh, reference = (values[index] for values in batched)
        return replace(self, omega=omega, expected=expected, fresh=fresh, reference=reference)

    def adjusted(self, step: int, error: Float[Tensor, "batch"]) -> "Relaxation":
        """Return the factor for the next steps. It changes after more and more steps: the larger, the slower."""
        if self.waiting:
            near = (self.expected > 0) & (error < _NEAR)
            if bool(near.any()):
                return self._taken(near).adjusted(step, error)
        omega = torch.where(error > LOST, 1.0, self.omega)
        if self.since < 0:
            return replace(self, omega=omega, reference=error, since=step) if step > self.changed else self
        if step < max(self.changed + 4 + self.changed // 6, self.since + 1):
            return replace(self, omega=omega)
        rate = (error / self.reference) ** (1 / (step - self.since))
        omega = torch.where(self.fresh, omega, self._omega(rate, error))
        fresh = torch.zeros_like(self.fresh)
        return replace(self, omega=omega, fresh=fresh, since=-1, changed=step, plain=False)

    def _taken(self, near: Bool[Tensor, "batch"]) -> "Relaxation":
        omega = torch.where(near, torch.maximum(self.omega, self.expected), self.omega)
        expected = torch.where(near, 0.0, self.expected)
        fresh, waiting = self.fresh | near, bool((expected > 0).any())
        return replace(self, omega=omega, expected=expected, fresh=fresh, waiting=waiting, plain=False)

    def _omega(self, rate: Float[Tensor, "batch"], error: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return the best factor for the plain rate that shows; less of it where the error shrinks no more."""
        omega = self.omega
        theta = ((rate + omega - 1).square() / (rate * omega.square())).clamp_max(1 - 1e-4)
        best = torch.minimum(_best_factor(theta), 2 - 0.7 * (2 - omega)).clamp_max(_LARGEST)
        raised = torch.where(error < _NEAR, torch.maximum(omega, best), omega)
        too_low = (rate > omega - 0.99) & (rate < 1)
        return torch.where(too_low, raised, (2 - 1.3 * (2 - omega)).clamp_min(1.0))


def _best_factor(theta: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    return 2 / (1 + (1 - theta).sqrt())


def expected_factor(problem: Problem) -> Float[Tensor, "batch"]:
    """Return the factor that is best for Gaussian measures between which the cost varies as much."""
    z = problem.eps / (2 * spread(problem)).clamp_min(1e-9 * problem.eps)
    rho = 1 / (z + (1 + z.square()).sqrt())
    return _best_factor(rho.square())


def spread(problem: Problem) -> Float[Tensor, "batch"]:
    """Return about the largest singular value of the doubly centred cost, as `metaot.single.spread`."""
    C, a, b = problem.geometry, problem.a, problem.b
    first = (a > 0).byte().argmax(-1, keepdim=True)
    t = centred(b, C.T.times_cost((-a).scatter_add(-1, first, torch.ones_like(a[:, :1]))))
    s = centred(a, C.times_cost(b * t))
    t = centred(b, C.T.times_cost(a * s))
    size = (a * s.square()).sum(-1).sqrt()
    return torch.where(size > 0, (b * t.square()).sum(-1).sqrt() / size, 0.0)
