"""What the runtime answers: arrays."""

from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray


@final
@dataclass(frozen=True)
class Potentials:
    """Dual potentials f, *batch n, and g, *batch m, in the units of the cost: P = a b exp((f + g - C)/eps)."""

    f: Array
    g: Array


@final
@dataclass(frozen=True)
class OnnxSolution:
    """Refined potentials, and for each instance the L1 marginal error of their plan, and the steps to it.

    f is *batch n, g *batch m, `error`, `steps` and `converged` are *batch. Not converging is a result.
    """

    f: Array
    g: Array
    error: Array
    steps: Array
    converged: Array
