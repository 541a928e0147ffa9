"""The semi-dual near a point: what Newton's method needs there of weights, prices and the plan.

With g(f) eliminated, the dual value is the sum of what f is worth on the source, and of what the best balanced
potential S(f) is worth on the target. Potentials are in units of eps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Kernel, MatrixKernel
from metaot.marginals import KL, TV, Marginal
from metaot.problem import Problem

_LARGEST = 700.0
"""Exponents are cut off here."""


@dataclass(frozen=True)
class Changes(ABC):
    """What changes of one side's potential are worth, for each unit of the mass at an atom."""

    @abstractmethod
    def passes(self, change: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
        """Return the share of the best g after a change of S, and its change but for that share."""

    @abstractmethod
    def within(self, change: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return a change cut to the bounds."""

    @property
    @abstractmethod
    def stiffness(self) -> Tensor | float:
        """How much the mass that f asks for falls with f, relative to itself."""

    @property
    @abstractmethod
    def share(self) -> Tensor | float:
        """The part of a small change of S that the best g follows."""

    @abstractmethod
    def worth(self, change: Float[Tensor, "batch n *lengths"]) -> Float[Tensor, "batch n *lengths"]:
        """Return what a change of f is worth, within its room."""

    @abstractmethod
    def worth_of_best(self, change: Float[Tensor, "batch n *lengths"]) -> Float[Tensor, "batch n *lengths"]:
        """Return what a change of S is worth, with the best g for it."""

    @abstractmethod
    def followed(self, change: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return the change of the best g, where S changes."""

    @abstractmethod
    def __getitem__(self, index: Tensor) -> "Changes":
        """Return those of a part of the batch."""


@final
@dataclass(frozen=True)
class Smooth(Changes):
    """Changes where the mass that is asked for is that at the atom times e^(-change/rho)."""

    rho: Tensor | float
    """One number, or batch 1; of S, that of g and one more."""

    def passes(self, change: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(change) + self.share, torch.zeros_like(change)

    def within(self, change: Tensor) -> Tensor:
        return change

    @property
    def stiffness(self) -> Tensor | float:
        return 1 / self.rho

    @property
    def share(self) -> Tensor | float:
        return 1 - 1 / self.rho

    def worth(self, change: Tensor) -> Tensor:
        rho = _as_wide(self.rho, change)
        return -rho * (-change / rho).clamp_max(_LARGEST).expm1()

    def worth_of_best(self, change: Tensor) -> Tensor:
        return self.worth(change)

    def followed(self, change: Tensor) -> Tensor:
        return self.share * change

    def __getitem__(self, index: Tensor) -> "Smooth":
        return Smooth(_part(self.rho, index))


@final
@dataclass(frozen=True)
class Bounded(Changes):
    """Changes between bounds, infinite ones of a balanced side, where the mass that is asked for is the weights.

    A potential S beyond the bounds leaves g at the one that it has passed.
    """

    low: Tensor | float
    high: Tensor | float

    def passes(self, change: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(self.low, Tensor):
            return torch.ones_like(change), torch.zeros_like(change)
        free = (change >= self.low) & (change <= self.high)
        return free.to(change), self.followed(change) - torch.where(free, change, 0.0)

    def within(self, change: Tensor) -> Tensor:
        return _between(change, self.low, self.high)

    @property
    def stiffness(self) -> float:
        return 0.0

    @property
    def share(self) -> Tensor | float:
        if not isinstance(self.low, Tensor):
            return 1.0
        return ((self.low <= 0) & (self.high >= 0)).to(self.low)

    def worth(self, change: Tensor) -> Tensor:
        return change

    def worth_of_best(self, change: Tensor) -> Tensor:
        if not isinstance(self.low, Tensor):
            return change
        low, high = _as_wide(self.low, change), _as_wide(self.high, change)
        passed, reached = _between(torch.zeros_like(change), low, high), _between(change, low, high)
        free = (-passed).clamp_max(_LARGEST).exp() * (reached - passed)
        return free - (reached - change - passed).clamp_max(_LARGEST).expm1()

    def followed(self, change: Tensor) -> Tensor:
        passed = _between(torch.zeros_like(change), self.low, self.high)
        return _between(change, self.low, self.high) - passed

    def __getitem__(self, index: Tensor) -> "Bounded":
        return Bounded(_part(self.low, index), _part(self.high, index))


@final
@dataclass(frozen=True)
class Local:
    """A point f, the masses that f and g(f) ask for, and what changes are worth.

    Where bounds hold g, b is the mass that arrives.
    """

    f: Float[Tensor, "batch n"]
    a: Float[Tensor, "batch n"]
    b: Float[Tensor, "batch m"]
    source: Changes
    target: Changes
    are_smooth: bool
    """Whether there are no bounds; f is then at its best level, so that the mass of the plan is that of a."""

    def __getitem__(self, index: Tensor) -> "Local":
        parts = (self.f[index], self.a[index], self.b[index], self.source[index], self.target[index])
        return Local(*parts, self.are_smooth)

    def gradient(self, source: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return a - P 1, for a plan scaled to the mass of a where it has that."""
        if not self.are_smooth:
            return self.a - source
        return self.a - source * (self.a.sum(-1) / source.sum(-1))[:, None]


def local(problem: Problem, f: Float[Tensor, "batch n"]) -> tuple[Local, Kernel]:
    """Return the semi-dual near f, at its best level, and the plan, whose columns have the sums b."""
    a, b, eps = problem.a, problem.b, expand_eps(problem.eps, problem.a)
    g, kernel = problem.geometry.best_plan((f + a.log()) * eps, b, problem.eps)
    if problem.is_balanced:
        free = Bounded(-torch.inf, torch.inf)
        return Local(f, a, b, free, free, are_smooth=True), kernel
    sides, S = problem.marginals.in_units_of(problem.eps), g / eps
    smooth = problem.marginals.are_smooth
    level = sides.level(a, b, f, S) if smooth else 0.0
    f, S = f + level, S - level
    g = sides.target.best(S, 1.0)
    if isinstance(kernel, MatrixKernel):
        kernel = MatrixKernel(kernel.K * (g - S).exp()[:, None, :])
    else:
        kernel = problem.geometry.kernel((f + a.log()) * eps, (g + b.log()) * eps, problem.eps)
    asked = a if isinstance(sides.source, TV) else sides.source.asked(a, f)
    arriving = b * (g - S).clamp_max(_LARGEST).exp()
    source, target = changes_from(sides.source, f, more=0.0), changes_from(sides.target, S, more=1.0)
    return Local(f, asked, arriving, source, target, are_smooth=smooth), kernel


def changes_from(side: Marginal, f: Float[Tensor, "batch n"], *, more: float) -> Changes:
    """Return the changes from f, or with 1 more those of the best balanced potential f."""
    rho = expand_eps(side.rho, f)
    if isinstance(side, KL):
        return Smooth(rho + more)
    return Bounded(-rho - f, rho - f) if isinstance(side, TV) else Bounded(-torch.inf, torch.inf)


def _between(change: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return change.maximum(low).minimum(high)
    return change


def _as_wide(values: Tensor | float, like: Tensor) -> Tensor | float:
    """Return values of batch n with as many dimensions as `like`."""
    if not isinstance(values, Tensor):
        return values
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def _part(values: Tensor | float, index: Tensor) -> Tensor | float:
    return values[index] if isinstance(values, Tensor) else values
