"""Coarse to fine: each level is solved only as far as the next finer one needs, and gives a start there."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from metaot.core.method import Result
from metaot.problem import Problem
from metaot.solvers.correction import Correction

COARSEST, RATIO = 0.01, 4.0
"""The L1 error to which the coarsest level is solved, and how many times less each finer one."""

NEAR = 0.01
"""The L1 error of a start that is better than that of the levels."""

COARSE_STEPS = 300
"""The most steps on a coarser level."""


class Hierarchy(ABC):
    """The coarser levels of a flat batch of problems."""

    problems: list[Problem]
    """Of each level, the finest first."""
    solved: float
    """The L1 error from which on a level gives no start."""

    @abstractmethod
    def start(self, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch coarsest_n"] | None:
        """Return what f is on the coarsest level, if that can be told."""

    @abstractmethod
    def lifted(self, level: int, g: Float[Tensor, "batch coarse_m"]) -> Float[Tensor, "batch n"]:
        """Return the f on the next finer level that is the best one for g on this one."""

    @abstractmethod
    def correction(self, results: list[Result], to: int, tol: float) -> Correction | None:
        """Return the correction of steps on a level, -1 for the finest, to an L1 error of `tol`, if there is one.

        `results` are those of the levels that are solved, the finest first.
        """
