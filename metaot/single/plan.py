"""A dense problem, and the plan of a potential: its columns have the sums b, what its rows lack is the error."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray


class Alternating(ABC):
    """A problem that can be maximised in one potential and then in the other."""

    a: Array
    b: Array

    @abstractmethod
    def best_g(self, f: Array) -> Array:
        """Return the best g for f."""

    @abstractmethod
    def best_f(self, g: Array) -> Array:
        """Return the best f for g."""


@final
@dataclass(frozen=True)
class DenseProblem(Alternating):
    """Costs k l and weights, all positive; costs and potentials are in units of eps."""

    C: Array
    a: Array
    b: Array

    @property
    def T(self) -> "DenseProblem":
        """The same problem with source and target exchanged."""
        return DenseProblem(self.C.T, self.b, self.a)

    def best_g(self, f: Array) -> Array:
        z = (f + np.log(self.a))[:, None] - self.C
        top = z.max(0)
        z -= top
        return -(top + np.log(np.exp(z, out=z).sum(0)))

    def best_f(self, g: Array) -> Array:
        return self.T.best_g(g)

    def best_plan(self, f: Array) -> tuple[Array, Array]:
        """Return the plan of f and of the best g for it, k l with the column sums b; and that g."""
        K = (f + np.log(self.a))[:, None] - self.C
        top = K.max(0)
        K -= top
        np.exp(K, out=K)
        total = K.sum(0)
        K *= self.b / total
        return K, -(top + np.log(total))


@final
@dataclass(frozen=True)
class Refinement:
    """A potential on the source, the L1 error of its plan, the steps that led to it; the best g, if known."""

    f: Array
    error: float
    steps: int
    g: Array | None = None


@final
@dataclass(frozen=True)
class Refined:
    """Potentials on all atoms, with mass or without, of which g is the best for f; the L1 error, and the steps."""

    f: Array
    g: Array
    error: float
    steps: int

    @property
    def T(self) -> "Refined":
        """The same with source and target exchanged."""
        return Refined(self.g, self.f, self.error, self.steps)


def distance(marginal: Array, weights: Array) -> float:
    """Return the L1 distance."""
    return float(np.abs(marginal - weights).sum())
