r"""How far the marginals of a plan may be from the weights: exactly (balanced), or at a price.

The price of a marginal p is $\sum_i a_i \phi(p_i/a_i)$. Its conjugate says what a potential f is worth,
$\langle -\phi^*(-f), a \rangle$, and which potential is best, given the one of the balanced problem (Chizat et
al., arXiv 1607.05816; Sejourne et al., arXiv 1910.12958). Potentials, rho and eps are in the same units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.arrays import is_truth, wrong
from metaot.geometry.base import Eps, expand_eps
from metaot.geometry.checks import first_place, tensor

_LARGEST = 700.0
"""Exponents are cut off here; in float32 they overflow before, and count as infinite."""

_BEYOND = 20.0
"""How far beyond a bound a potential, in units of eps, is still told from one that is farther."""

_LEVELS, _TRUSTED, _FLAT = 24, 4, 1e-12
"""Levels that are tried, those of them that Newton alone proposes, and the relative slope that is rounding."""


@dataclass(frozen=True)
class Marginal(ABC):
    """What it costs when a marginal of the plan is not the weights."""

    rho: Eps
    """The price of mass in the units of the cost; infinite where the marginal must be the weights."""
    is_exact: ClassVar[bool] = False
    """Whether the marginal must be the weights."""
    code: ClassVar[int] = 0
    """How compiled code knows it."""

    @abstractmethod
    def priced(self, rho: Eps) -> "Marginal":
        """Return the same penalty at another price."""

    @abstractmethod
    def best(self, S: Float[Tensor, "*batch n"], eps: Eps) -> Float[Tensor, "*batch n"]:
        """Return the best potential, where S is the best one of the balanced problem."""

    @abstractmethod
    def bounded(self, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Return f between the bounds outside of which no potential is better."""

    @abstractmethod
    def move(
        self, log_ratio: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """Return where to go from f, less f, in units of eps, where f + log_ratio is the best balanced potential.

        That is to the best potential; where it has bounds, to what is beyond them.
        """

    @abstractmethod
    def scaling(self, ratio: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Return e to the best potential less f, for a ratio of weights and marginal."""

    @abstractmethod
    def worth(self, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        r"""Return $-\phi^*(-f)$, what a potential adds to the dual value for each unit of weight."""

    @abstractmethod
    def asked(self, weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Return the marginal that f asks for, the slope of its worth; of several the least."""

    @abstractmethod
    def missing(
        self, weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"], marginal: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """Return what the marginal lacks of the one that f asks for: the slope of the dual value in f."""

    @abstractmethod
    def error(
        self, weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"], marginal: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """Return how far the marginal of an atom is from what f asks for, where f and rho are in units of eps."""

    @abstractmethod
    def price(
        self, weights: Float[Tensor, "*batch n"], marginal: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch n"]:
        """Return the price of the marginal, atom by atom."""

    @abstractmethod
    def rate(self, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"] | float:
        """Return how the logarithm of the mass that f asks for falls with f; where bounds hold f, zero."""


@final
@dataclass(frozen=True)
class Balanced(Marginal):
    """The marginal is the weights."""

    rho: Eps = math.inf
    is_exact: ClassVar[bool] = True

    def priced(self, rho: Eps) -> "Balanced":
        return self

    def best(self, S: Tensor, eps: Eps) -> Tensor:
        return S

    def bounded(self, f: Tensor) -> Tensor:
        return f

    def move(self, log_ratio: Tensor, f: Tensor) -> Tensor:
        return log_ratio

    def scaling(self, ratio: Tensor, f: Tensor) -> Tensor:
        return ratio

    def worth(self, f: Tensor) -> Tensor:
        return f

    def asked(self, weights: Tensor, f: Tensor) -> Tensor:
        return weights

    def missing(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        return weights - marginal

    def error(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        return (marginal - weights).abs()

    def price(self, weights: Tensor, marginal: Tensor) -> Tensor:
        return torch.zeros_like(weights)

    def rate(self, f: Tensor) -> Tensor | float:
        return 0.0

    def __repr__(self) -> str:
        return "None"


@final
@dataclass(frozen=True, init=False)
class KL(Marginal):
    r"""The price $\rho \sum_i (p_i \log(p_i/a_i) - p_i + a_i)$ of a marginal p.

    `rho` is in the units of the cost: a positive number, or one for each instance of the batch. Mass travels
    where that costs less than about rho, and is destroyed and created elsewhere. The larger rho, the nearer is
    the marginal to the weights (Sejourne, Vialard and Peyre, arXiv 2201.00730). Values have no derivative in rho.
    Raises ValueError unless rho is positive and finite, TypeError for what is no number.
    """

    rho: Eps
    code: ClassVar[int] = 1

    def __init__(self, rho: object) -> None:
        object.__setattr__(self, "rho", _checked("KL", rho))

    def priced(self, rho: Eps) -> "KL":
        changed = object.__new__(KL)
        object.__setattr__(changed, "rho", rho)
        return changed

    def best(self, S: Tensor, eps: Eps) -> Tensor:
        rho = expand_eps(self.rho, S)
        return S * (rho / (rho + expand_eps(eps, S)))

    def bounded(self, f: Tensor) -> Tensor:
        return f

    def move(self, log_ratio: Tensor, f: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        return (rho * log_ratio - f) / (rho + 1)

    def scaling(self, ratio: Tensor, f: Tensor) -> Tensor:
        return self.move(ratio.log(), f).exp()

    def worth(self, f: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        return -rho * (-f / rho).clamp_max(_LARGEST).expm1()

    def asked(self, weights: Tensor, f: Tensor) -> Tensor:
        return weights * (-f / expand_eps(self.rho, f)).clamp_max(_LARGEST).exp()

    def missing(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        return self.asked(weights, f) - marginal

    def error(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        return (marginal - self.asked(weights, f)).abs()

    def price(self, weights: Tensor, marginal: Tensor) -> Tensor:
        ratio = torch.where(weights > 0, marginal / weights, 1.0)
        return expand_eps(self.rho, weights) * weights * (torch.xlogy(ratio, ratio) - ratio + 1)

    def rate(self, f: Tensor) -> Tensor | float:
        return 1 / expand_eps(self.rho, f)

    def __repr__(self) -> str:
        return f"KL({_words(self.rho)})"


@final
@dataclass(frozen=True, init=False)
class TV(Marginal):
    r"""The price $\rho \sum_i |p_i - a_i|$ of a marginal p: partial transport.

    `rho` is in the units of the cost: a positive number, or one for each instance of the batch. Between two sides
    with this price no mass travels that costs more than 2 rho. Values have no derivative in rho. Errors as for
    `KL`.
    """

    rho: Eps
    code: ClassVar[int] = 2

    def __init__(self, rho: object) -> None:
        object.__setattr__(self, "rho", _checked("TV", rho))

    def priced(self, rho: Eps) -> "TV":
        changed = object.__new__(TV)
        object.__setattr__(changed, "rho", rho)
        return changed

    def best(self, S: Tensor, eps: Eps) -> Tensor:
        return self.bounded(S)

    def bounded(self, f: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        return f.clamp(-rho, rho) if not isinstance(rho, Tensor) else f.minimum(rho).maximum(-rho)

    def move(self, log_ratio: Tensor, f: Tensor) -> Tensor:
        return self.priced(self.rho + _BEYOND).bounded(f + log_ratio) - f

    def scaling(self, ratio: Tensor, f: Tensor) -> Tensor:
        return (self.bounded(f + ratio.log()) - f).exp()

    def worth(self, f: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        reached = f.clamp_max(rho) if not isinstance(rho, Tensor) else f.minimum(rho)
        return torch.where(f < -rho * (1 + 8 * torch.finfo(f.dtype).eps), -torch.inf, reached)

    def asked(self, weights: Tensor, f: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        return torch.where(f < -rho, torch.inf, torch.where(f < rho, weights, 0.0))

    def missing(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        rho = expand_eps(self.rho, f)
        lack = weights - marginal
        free = (f < rho) | (lack < 0)
        return torch.where(free & ((f > -rho) | (lack > 0)), lack, 0.0)

    def error(self, weights: Tensor, f: Tensor, marginal: Tensor) -> Tensor:
        rho, lack = expand_eps(self.rho, f), weights - marginal
        return lack.abs() * torch.where(lack > 0, rho - f, rho + f).clamp(0, 1)

    def price(self, weights: Tensor, marginal: Tensor) -> Tensor:
        return expand_eps(self.rho, weights) * (marginal - weights).abs()

    def rate(self, f: Tensor) -> Tensor | float:
        return 0.0

    def __repr__(self) -> str:
        return f"TV({_words(self.rho)})"


@final
@dataclass(frozen=True)
class Marginals:
    """The penalties of both sides."""

    source: Marginal
    target: Marginal

    @property
    def are_exact(self) -> bool:
        """Whether the problem is balanced."""
        return self.source.is_exact and self.target.is_exact

    @property
    def are_smooth(self) -> bool:
        """Whether the dual value is smooth in the potentials."""
        return not (isinstance(self.source, TV) or isinstance(self.target, TV))

    def hold_the_source(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> Bool[Tensor, "batch"]:
        """Return where bounds hold more of the source than of the target: of two such sides, the heavier."""
        if isinstance(self.source, TV) and isinstance(self.target, TV):
            return a.sum(-1) > b.sum(-1)
        return torch.full(a.shape[:1], isinstance(self.source, TV), device=a.device)

    @property
    def are_alike(self) -> bool:
        """Whether both sides have the same price."""
        source, target = self.source, self.target
        return source is target or (
            type(source) is type(target) and bool(torch.as_tensor(source.rho == target.rho).all())
        )

    @property
    def T(self) -> "Marginals":
        """The penalties with source and target exchanged."""
        return self if self.source is self.target else Marginals(self.target, self.source)

    def __getitem__(self, index: object) -> "Marginals":
        return self._mapped(lambda rho: rho[index])  # type: ignore[index]

    def flat(self) -> "Marginals":
        """Return them with exactly one batch dimension."""
        return self._mapped(lambda rho: rho.reshape(-1))

    def to(self, like: Tensor) -> "Marginals":
        """Return them in the dtype and on the device of `like`."""
        return self._mapped(lambda rho: rho.to(like))

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Marginals":
        sides = (self.source, self.target)
        if not any(isinstance(side.rho, Tensor) for side in sides):
            return self
        return Marginals(
            *(side.priced(change(side.rho)) if isinstance(side.rho, Tensor) else side for side in sides)
        )

    def in_units_of(self, eps: Eps) -> "Marginals":
        """Return them for potentials and costs that were divided by eps."""
        if self.are_exact or (isinstance(eps, float) and eps == 1.0):
            return self
        return Marginals(*(side.priced(side.rho / eps) for side in (self.source, self.target)))

    def level(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], f: Tensor, S: Tensor
    ) -> Float[Tensor, "batch 1"] | float:
        r"""Return by how much to raise f, in units of eps, to raise the dual value most; S is its best balanced g.

        With the best g for f + t, the dual value is $- r^{-1} A e^{-r t} - s^{-1} B e^{s t}$ but for a constant,
        where A and B are the masses that f and g ask for, and r and s their rates (Sejourne, Vialard and Peyre,
        arXiv 2201.00730, move g by -t). Without it Sinkhorn's algorithm finds the level slowly when rho is large.
        Where potentials have bounds, by Newton's method on the slope. Zero where both sides are balanced.
        """
        if self.are_exact:
            return 0.0
        if not self.are_smooth:
            return self._bounded_level(a, b, f, S)
        r, s = self.source.rate(f), self.target.rate(S)
        s = s / (1 + s)
        asked = [torch.logsumexp(w.log() - rate * h, -1, keepdim=True) for w, rate, h in ((a, r, f), (b, s, S))]
        level = (asked[0] - asked[1]) / (r + s)
        return torch.where(level.isfinite(), level, 0.0)

    def _bounded_level(self, a: Tensor, b: Tensor, f: Tensor, S: Tensor) -> Float[Tensor, "batch 1"]:
        """Return the level where bounds may hold it, by Newton's method between slopes of both signs.

        What f asks for jumps where an atom reaches its bound: if the slope changes its sign there, that is it.
        """
        zero = torch.zeros_like(f[..., :1])
        tiny = zero
        if isinstance(self.source, TV):
            tiny = zero + 8 * torch.finfo(f.dtype).eps * (1 + expand_eps(self.source.rho, f))
        signs = [self._slope(a, b, f, S, side * tiny)[0] for side in (1, -1)]
        held = (signs[0] <= 0) & (signs[1] >= 0)
        level = torch.where(signs[0] > 0, tiny, -tiny)
        low, high, found = zero - torch.inf, zero + torch.inf, torch.where(held, 0.0, level)
        for k in range(_LEVELS):
            sign, step = self._slope(a, b, f, S, level)
            low, high = torch.where(sign > 0, level, low), torch.where(sign < 0, level, high)
            running = ~held & (sign != 0)
            found = torch.where(
                held, found, torch.where(sign == 0, level, torch.where(high < torch.inf, high, low))
            )
            held = ~running
            if not bool(running.any()):
                break
            reach, middle = 4.0 ** (k + 1), 0.5 * (low + high)
            middle = torch.where(
                low == -torch.inf, high - reach, torch.where(high == torch.inf, low + reach, middle)
            )
            following = level + step
            trusted = (following > low) & (following < high) & (k < _TRUSTED or k % 2 == 0)
            level = torch.where(trusted, following, middle)
        if isinstance(self.source, TV) and not bool(held.all()):
            at_bound = expand_eps(self.source.rho, f) - f
            jumps = torch.where((a > 0) & (at_bound > low) & (at_bound <= high), at_bound, torch.inf)
            jump = jumps.amin(-1, keepdim=True)
            found = torch.where(~held & jump.isfinite(), jump, found)
        return found

    def _slope(
        self, a: Tensor, b: Tensor, f: Tensor, S: Tensor, level: Float[Tensor, "batch 1"]
    ) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]:
        """Return the sign of the dual value's slope at a level, zero where that is rounding, and Newton's step."""
        f, S = f + level, S - level
        best = self.target.best(S, 1.0)
        sent = torch.where(b > 0, b * (best - S).clamp_max(_LARGEST).exp(), 0.0)
        asked = torch.where(a > 0, self.source.asked(a, f), 0.0).sum(-1, keepdim=True)
        other = self.target.rate(S)
        moving = torch.where(best != S, sent, 0.0) if isinstance(self.target, TV) else sent * (other / (1 + other))
        sent, moving = sent.sum(-1, keepdim=True), moving.sum(-1, keepdim=True)
        fall = torch.where(asked.isfinite(), moving + asked * self.source.rate(f), 0.0)
        rise = asked - sent
        sign = torch.where(rise.abs() <= _FLAT * torch.minimum(asked, sent), 0.0, rise.sign())
        return sign, torch.where(rise > -fall, (rise / fall).log1p(), -torch.inf)


BALANCED = Marginals(*(Balanced(),) * 2)


def as_marginals(given: object) -> Marginals:
    """Return the penalties of both sides: of None, of one for both, or of a pair; TypeError for all else."""
    sides = tuple(given) if isinstance(given, tuple | list) else (given, given)
    exact = BALANCED.source
    found = [exact if side is None else side for side in sides]
    if len(found) != 2 or not all(isinstance(side, Marginal) for side in found):
        taken = "None (balanced), metaot.KL(rho), metaot.TV(rho), or a pair (source, target) of these"
        raise wrong("marginals", taken, given)
    source, target = found
    return BALANCED if source is target is exact else Marginals(source, target)  # type: ignore[arg-type]


def _checked(name: str, rho: object) -> Eps:
    """Return a price as a number or as a tensor of one for each instance; ValueError unless it is positive."""
    taken = "a positive number in the units of the cost, or one for each problem"
    if is_truth(rho) or isinstance(rho, str | None):
        raise wrong(f"rho in metaot.{name}(rho)", taken, rho)
    found = tensor(f"rho in metaot.{name}(rho)", rho, taken=taken)
    bad = ~(found.isfinite() & (found > 0))
    if bad.any():
        where = first_place(bad, found)
        raise ValueError(f"rho must be positive and finite, got rho{where}: None stands for a balanced side")
    return found if found.ndim else float(found)


def _words(rho: Eps) -> str:
    return f"rho of shape {tuple(rho.shape)}" if isinstance(rho, Tensor) else f"{rho:g}"
