"""Anderson acceleration of Sinkhorn's algorithm: the last steps tell from where to make the next one.

A Sinkhorn step moves the potential x by its residual r(x), the logarithm of the weights over the marginal. Near
the solution r is linear, and symmetric in L2(a). Of all points between the last ones, the next step starts from
the one with the smallest residual (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 2011), as MINRES would: one
slow mode after the other vanishes, where over-relaxation keeps the rate of the slowest.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MEMORY = 10
"""Steps that are remembered. Once there are as many, every second step mixes: that is quicker, and safer."""

BEYOND = 1.3
"""How many times its residual a step moves."""

GROWTH, STALE = 2.0, 40
"""The factor by which the error may grow above its least value, and the steps that it may stay above it. Then the
iteration returns to where it was the least, and makes plain steps, under which it falls: one, or twice as many as
before if there was no progress."""

PROGRESS = 0.9
"""A least error below this part of the one before is progress."""

RIDGE = 1e-12
"""Relative, on the products of the changes: these become nearly dependent."""

FARTHEST = 35.0
"""A scaling may change by the exponential of this in a step."""

STORED = torch.float32
"""What the memory is kept in: differences need few digits, and reading them takes as long as a product."""


@final
@dataclass(frozen=True)
class Anderson:
    """The last points of each instance: x is the logarithm of scalings, r that of the weights over the marginal.

    The memory is written in place: of two states of a run only the later one may be stepped from.
    """

    roots: Float[Tensor, "batch n"]
    """Square roots of the weights."""
    target: Float[Tensor, "batch n"]
    missing: Float[Tensor, "batch n"]
    """The last target, and the last residual times the roots."""
    moves: Float[Tensor, "batch memory n"]
    changes: Float[Tensor, "batch memory n"]
    gram: Float[Tensor, "batch memory memory"]
    remembers: Bool[Tensor, "batch"]
    """Which instances have a last target."""
    least: Float[Tensor, "batch"]
    best: Float[Tensor, "batch n"]
    """The least error, and where a plain step leads from there."""
    stale: Int[Tensor, "batch"]
    """The steps since then."""
    plain: Int[Tensor, "batch"]
    stretch: Int[Tensor, "batch"]
    mark: Float[Tensor, "batch"]
    """Plain steps still to be made; how many there were when an instance last went back, and its error."""
    lost: Bool[Tensor, "batch"] | None
    """Which instances go there in the next step; None for none."""
    shown: int

    @classmethod
    def of(cls, weights: Float[Tensor, "batch n"]) -> "Anderson":
        """Begin, with nothing to remember."""
        batch, n = weights.shape
        one = torch.ones(batch, dtype=torch.int64, device=weights.device)
        far = torch.full_like(weights[:, 0], torch.inf)
        return cls(
            roots=weights.sqrt(),
            target=torch.zeros_like(weights),
            missing=torch.zeros_like(weights),
            moves=weights.new_zeros(batch, MEMORY, n, dtype=STORED),
            changes=weights.new_zeros(batch, MEMORY, n, dtype=STORED),
            gram=torch.eye(MEMORY, dtype=weights.dtype, device=weights.device).repeat(batch, 1, 1),
            remembers=one == 0,
            least=far,
            best=torch.zeros_like(weights),
            stale=0 * one,
            plain=one,
            stretch=one,
            mark=far,
            lost=None,
            shown=0,
        )

    def __getitem__(self, index: Tensor) -> "Anderson":
        tensors = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def judged(self, x: Tensor, residual: Tensor, error: Float[Tensor, "batch"]) -> "Anderson":
        """Take notice of the error of a point: those that have lost their way go back, and forget."""
        nearer = error <= self.least
        lost = ~(error <= GROWTH * self.least) | (self.stale >= STALE)
        best = x + residual
        if not bool(nearer.all()):
            best = torch.where(nearer[:, None], best, self.best)
        least, stale = torch.where(nearer, error, self.least), torch.where(nearer, 0, self.stale + 1)
        if not bool(lost.any()):
            return replace(self, least=least, best=best, stale=stale)
        return replace(self, least=least, best=best, stale=stale, lost=lost)._going_back(lost)

    def back(self) -> "tuple[Tensor, Anderson]":
        """Forget the last points but those with the least errors; return where plain steps lead from there."""
        everyone = torch.ones_like(self.remembers)
        return self.best, replace(self, lost=None)._going_back(everyone)

    def _going_back(self, which: Bool[Tensor, "batch"]) -> "Anderson":
        """Forget the last points of some instances, and have them make plain steps."""
        for memory in (self.moves, self.changes):
            memory[which] = 0
        self.gram[which] = torch.eye(MEMORY, dtype=self.gram.dtype, device=self.gram.device)
        longer = torch.where(self.least < PROGRESS * self.mark, 1, 2 * self.stretch)
        stretch = torch.where(which, longer, self.stretch)
        return replace(
            self,
            remembers=self.remembers & ~which,
            stale=torch.where(which, 0, self.stale),
            stretch=stretch,
            plain=torch.where(which, stretch, self.plain),
            mark=torch.where(which, self.least, self.mark),
        )

    def next(self, x: Tensor, residual: Tensor) -> "tuple[Tensor, Anderson]":
        """Return the point that follows x, and the memory of it."""
        target, missing = x.add(residual, alpha=BEYOND), self.roots * residual
        following = target if self.shown == 0 else target - self._correction(target, missing)
        following = _not_too_far(x, following)
        straight = self.plain > 0
        remembers, left = torch.ones_like(straight), (self.plain - 1).clamp_min(0)
        if _any(straight):
            following = torch.where(straight[:, None], x + residual, following)
        if self.lost is not None:
            following = torch.where(self.lost[:, None], self.best, following)
            remembers, left = ~self.lost, torch.where(self.lost, self.plain, left)
        changed = replace(
            self,
            target=target,
            missing=missing,
            remembers=remembers,
            stale=torch.where(straight, 0, self.stale),
            plain=left,
            lost=None,
            shown=self.shown + 1,
        )
        return following, changed

    def _correction(self, target: Tensor, missing: Tensor) -> Tensor | float:
        """Remember the last step; return how far the target is from the best point between the last ones."""
        k, known = (self.shown - 1) % MEMORY, slice(min(self.shown, MEMORY))
        mask = self.remembers[:, None]
        move, change = (target - self.target).mul_(mask), (missing - self.missing).mul_(mask)
        self.moves[:, k], self.changes[:, k] = move, change
        sides = torch.stack([change, missing], 1).to(self.changes.dtype)
        products = (sides @ self.changes[:, known].mT).to(self.gram.dtype)
        own = products[:, 0, k]
        self.gram[:, k, known] = self.gram[:, known, k] = products[:, 0]
        self.gram[:, k, k] = torch.where(own > 0, own * (1 + RIDGE), 1.0)
        if self.shown >= MEMORY and self.shown % 2 == 0:
            return 0.0
        mix, _ = torch.linalg.solve_ex(self.gram[:, known, known], products[:, 1])
        return (mix[:, None].to(self.moves.dtype) @ self.moves[:, known])[:, 0]

    def moved(self, origin: Float[Tensor, "batch n"]) -> "Anderson":
        """Return the same where x is measured from another origin, at this point."""
        return replace(self, target=self.target - origin, best=self.best - origin)


def _not_too_far(x: Tensor, following: Tensor) -> Tensor:
    """Return points on the way from x that are within bounds; x itself, where they are not finite."""
    step = following - x
    length = step.abs().amax(-1)
    far = ~(length <= FARTHEST)
    if not _any(far):
        return following
    bounded = torch.where(length.isfinite()[:, None], x + step * (FARTHEST / length)[:, None], x)
    return torch.where(far[:, None], bounded, following)


def _any(mask: Bool[Tensor, "batch"]) -> bool:
    """Tell whether there may be some; a GPU is not waited for."""
    return mask.is_cuda or bool(mask.any())
