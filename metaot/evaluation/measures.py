"""What is measured of each start, instance by instance."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True)
class Reference:
    """The converged solutions that the others are compared with: dual values and <C, P>."""

    tol: float
    max_steps: int
    value: Float[Tensor, "instances"]
    cost: Float[Tensor, "instances"]
    converged: Bool[Tensor, "instances"]


@final
@dataclass(frozen=True)
class Quality:
    """How good the potentials are after so many Sinkhorn steps.

    `error` is the L1 error of both marginals, `gap` the dual value that is missing, in the units of the cost,
    `relative_gap` and `cost_error` (of <C, P>) are shares of the reference.
    """

    steps: int
    error: Float[Tensor, "instances"]
    gap: Float[Tensor, "instances"]
    relative_gap: Float[Tensor, "instances"]
    cost_error: Float[Tensor, "instances"]


@final
@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds for one instance to come to `tol`, batch by batch; the start's time counts."""

    tol: float
    seconds: Float[Tensor, "batches"]
    converged: bool


@final
@dataclass(frozen=True)
class StartResult:
    """All that was measured of one start.

    `curve` holds the error before the first step and after each one; an instance that is below every
    tolerance keeps its last error. `replaced` marks predictions that were worse than zeros.
    """

    name: str
    curve: Float[Tensor, "steps instances"]
    replaced: Bool[Tensor, "instances"]
    quality: tuple[Quality, ...]
    timings: tuple[Timing, ...]

    def reached(self, tol: float) -> Bool[Tensor, "instances"]:
        """Tell which instances came to this error."""
        return (self.curve <= tol).any(0)

    def steps(self, tol: float) -> Int[Tensor, "instances"]:
        """Return the number of steps to this error; all that were made where it was not reached."""
        first = (self.curve <= tol).to(torch.int64).argmax(0)
        return torch.where(self.reached(tol), first, len(self.curve) - 1)


@final
@dataclass(frozen=True)
class EpsResult:
    """All starts at one temperature."""

    eps: float
    reference: Reference
    starts: tuple[StartResult, ...]
