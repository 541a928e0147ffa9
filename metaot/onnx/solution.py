"""What `OnnxModel` returns: potentials and solutions in arrays, without torch."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from metaot.core.plan import Plans
from metaot.core.status import Status, how_it_went

Array = np.ndarray


@final
@dataclass(frozen=True)
class Potentials:
    """Dual potentials f, *batch n, and g, *batch m, in the units of the cost: P = a b exp((f + g - C)/eps)."""

    f: Array
    g: Array

    def __repr__(self) -> str:
        return f"Potentials(f of {self.f.shape} and g of {self.g.shape}, {self.f.dtype})"


@final
@dataclass(frozen=True)
class OnnxSolution:
    """Refined potentials f, *batch n, and g, *batch m; the L1 marginal error and the steps of each instance.

    The names mean what they mean of a `metaot.Solution`, in arrays and float64.
    """

    f: Array
    g: Array
    error: Array
    steps: Array
    converged: Array
    plans: Plans = field(repr=False)
    max_steps: int

    @property
    def status(self) -> Status:
        """The worst status of the batch."""
        return Status.worst(self.converged, self.error, self.steps >= self.max_steps)

    @property
    def value(self) -> Array:
        """The dual value: a lower bound of min <C, P> + eps KL(P | a b^T), equal to it at the solution."""
        return self.plans.value.reshape(self.error.shape)

    def cost(self) -> Array:
        """Return <C, P>, without the plan."""
        return self.plans.cost.reshape(self.error.shape)

    def __repr__(self) -> str:
        sizes = " x ".join(str(len(axis)) for axis in self.plans.costs)
        where = (
            f"{sizes} grid"
            if len(self.plans.costs) > 1
            else f"{self.plans.a.shape[-1]} x {self.plans.b.shape[-1]} costs"
        )
        return f"Solution of {how_it_went(where, self)}"
