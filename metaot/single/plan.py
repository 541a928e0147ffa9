"""The plan of a potential: its columns have the sums b, and what its rows lack is the error."""

from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray


@final
@dataclass(frozen=True)
class Refinement:
    """A potential on the source, the L1 error of its plan, and the steps that led to it."""

    f: Array
    error: float
    steps: int


def best_plan(C: Array, a: Array, b: Array, f: Array) -> tuple[Array, Array]:
    """Return the plan of f and of the best g for it, k l with the column sums b; and that g."""
    K = (f + np.log(a))[:, None] - C
    top = K.max(0)
    K -= top
    np.exp(K, out=K)
    total = K.sum(0)
    K *= b / total
    return K, -(top + np.log(total))


def c_transform(C: Array, a: Array, f: Array) -> Array:
    """Return the best g for f; C has the atoms of a on its rows."""
    z = (f + np.log(a))[:, None] - C
    top = z.max(0)
    z -= top
    return -(top + np.log(np.exp(z, out=z).sum(0)))


def distance(marginal: Array, weights: Array) -> float:
    """Return the L1 distance."""
    return float(np.abs(marginal - weights).sum())
