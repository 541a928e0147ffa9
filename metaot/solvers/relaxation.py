"""How far to over-relax: the factor that the observed rate of Sinkhorn's algorithm asks for.

Near the solution an over-relaxed step is linear. If plain steps shrink the error by theta, steps with the factor
omega shrink it by the larger root r of (r + omega - 1)^2 = r omega^2 theta, until omega = 2/(1 + sqrt(1 - theta)),
where r = omega - 1; above that it grows again (Young's theory of over-relaxation; Lehmann, von Renesse, Sambale
and Uschmajew, arXiv 2012.12562).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_LARGEST = 1.97
"""Over-relaxation converges for factors below 2."""

_NEAR = 0.5
"""The factor is raised where the L1 error is smaller: farther away, a rate tells little of what comes."""


@final
@dataclass(frozen=True)
class Relaxation:
    """The factor of each instance, and the error `since` some step, from which the rate is taken."""

    omega: Float[Tensor, "batch"]
    reference: Float[Tensor, "batch"]
    since: int
    """The step of the reference; -1 while there is none for this omega."""
    changed: int
    """The step of the last change."""

    @classmethod
    def none(cls, like: Float[Tensor, "batch"]) -> "Relaxation":
        """Return the factor one, of plain steps."""
        return cls(torch.ones_like(like), torch.ones_like(like), -1, 0)

    def __getitem__(self, index: Tensor) -> "Relaxation":
        return replace(self, omega=self.omega[index], reference=self.reference[index])

    @property
    def plain(self) -> bool:
        """Whether all factors are still one."""
        return self.changed == 0

    def adjusted(self, step: int, error: Float[Tensor, "batch"]) -> "Relaxation":
        """Return the factor for the next steps. It changes after more and more steps: the larger, the slower."""
        if self.since < 0:
            return replace(self, reference=error, since=step) if step > self.changed else self
        if step < max(self.changed + 4 + self.changed // 6, self.since + 1):
            return self
        rate = (error / self.reference) ** (1 / (step - self.since))
        return replace(self, omega=self._omega(rate, error), since=-1, changed=step)

    def _omega(self, rate: Float[Tensor, "batch"], error: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Return the best factor for the plain rate that shows; less of it where the error shrinks no more."""
        omega = self.omega
        theta = ((rate + omega - 1).square() / (rate * omega.square())).clamp_max(1 - 1e-4)
        best = torch.minimum(2 / (1 + (1 - theta).sqrt()), 2 - 0.7 * (2 - omega)).clamp_max(_LARGEST)
        raised = torch.where(error < _NEAR, torch.maximum(omega, best), omega)
        too_low = (rate > omega - 0.99) & (rate < 1)
        return torch.where(too_low, raised, (2 - 1.3 * (2 - omega)).clamp_min(1.0))
