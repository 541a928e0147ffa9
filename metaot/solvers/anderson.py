"""Anderson acceleration of Sinkhorn's algorithm: the last steps say from where to make the next one.

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
"""Larger residuals are not linear in x: plain steps follow them, and nothing is remembered. Mixtures of the last
points move x by no more."""

MUCH = 100.0
"""The sum of squares of the coefficients of a mixture from which on its length is bounded."""


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
    shown: Int[Tensor, "batch"]
    """The points since an instance forgot them."""
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
    far: Bool[Tensor, "batch"] | None
    """Which instances make a plain step without memory; None for none."""
    count: int
    """Steps of the batch."""

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
            moves=weights.new_zeros(batch, MEMORY, n),
            changes=weights.new_zeros(batch, MEMORY, n),
            gram=torch.eye(MEMORY, dtype=weights.dtype, device=weights.device).repeat(batch, 1, 1),
            shown=0 * one,
            least=far,
            best=torch.zeros_like(weights),
            stale=0 * one,
            plain=one,
            stretch=one,
            mark=far,
            lost=None,
            far=None,
            count=0,
        )

    def __getitem__(self, index: Tensor) -> "Anderson":
        tensors = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def judged(self, x: Tensor, residual: Tensor, error: Float[Tensor, "batch"]) -> "Anderson":
        """Take notice of the error of a point: instances that have lost their way go back, and forget."""
        nearer = error <= self.least
        lost = ~(error <= GROWTH * self.least) | (~nearer & (self.stale >= STALE))
        far = ~lost & ~(residual.abs().amax(-1) <= FARTHEST)
        best = x + residual
        if not bool((nearer | far).all()):
            best = torch.where((nearer | far)[:, None], best, self.best)
        least, stale = torch.where(nearer, error, self.least), torch.where(nearer, 0, self.stale + 1)
        judged = replace(self, least=least, best=best, stale=stale, lost=None, far=None)
        leave = lost | far
        return judged._forgetting(lost, far) if bool(leave.any()) else judged

    def _forgetting(self, lost: Bool[Tensor, "batch"], far: Bool[Tensor, "batch"]) -> "Anderson":
        """Forget the last points of some instances, and have them make plain steps."""
        which = lost | far
        for memory in (self.moves, self.changes):
            memory[which] = 0
        self.gram[which] = torch.eye(MEMORY, dtype=self.gram.dtype, device=self.gram.device)
        longer = torch.where(self.least < PROGRESS * self.mark, 1, 2 * self.stretch)
        stretch = torch.where(lost, longer, self.stretch)
        return replace(
            self,
            shown=torch.where(which, 0, self.shown),
            stale=torch.where(which, 0, self.stale),
            stretch=stretch,
            plain=torch.where(which, stretch, self.plain),
            least=torch.where(far, torch.inf, self.least),
            mark=torch.where(far, torch.inf, torch.where(lost, self.least, self.mark)),
            lost=lost,
            far=far,
        )

    def next(self, x: Tensor, residual: Tensor) -> "tuple[Tensor, Anderson]":
        """Return the point that follows x, and the memory of it."""
        target, missing = x.add(residual, alpha=BEYOND), self.roots * residual
        following = self._mixed(x, target, missing) if self.count > 0 else target
        straight = self.plain > 0
        left, shown = (self.plain - 1).clamp_min(0), self.shown + 1
        stale = torch.where(straight, 0, self.stale)
        if _any(straight):
            following = torch.where(straight[:, None], x + residual, following)
        if self.lost is not None and self.far is not None:
            following = torch.where(self.lost[:, None], self.best, following)
            following = torch.where(self.far[:, None], x + residual, following)
            aside = self.lost | self.far
            left, shown = torch.where(aside, self.plain, left), torch.where(aside, 0, shown)
        changed = replace(
            self,
            target=target,
            missing=missing,
            shown=shown,
            stale=stale,
            plain=left,
            lost=None,
            far=None,
            count=self.count + 1,
        )
        return following, changed

    def _mixed(self, x: Tensor, target: Tensor, missing: Tensor) -> Tensor:
        """Remember the last step; return the best point between the last targets."""
        each, k = torch.arange(len(x), device=x.device), (self.shown - 1) % MEMORY
        mask = (self.shown > 0)[:, None]
        move, change = (target - self.target).mul_(mask), (missing - self.missing).mul_(mask)
        self.moves[each, k], self.changes[each, k] = move, change
        products = torch.stack([change, missing], 1) @ self.changes.mT
        own = products[each, 0, k]
        self.gram[each, k] = self.gram[each, :, k] = products[:, 0]
        self.gram[each, k, k] = torch.where(own > 0, own * (1 + RIDGE), 1.0)
        mixes = (self.shown > 0) & ((self.shown < MEMORY) | (self.shown % 2 == 1))
        if not _any(mixes):
            return target
        shares, _ = torch.linalg.solve_ex(self.gram, products[:, 1])
        shares = torch.where(mixes[:, None], shares, 0.0)
        following = target - (shares[:, None] @ self.moves)[:, 0]
        wild = ~(shares.square().sum(-1) < MUCH)
        if not _any(wild):
            return following
        step = following - x
        length = step.abs().amax(-1)
        bounded = x + step * (FARTHEST / length).clamp_max(1.0)[:, None]
        bounded = torch.where(length.isfinite()[:, None], bounded, target)
        return torch.where(wild[:, None], bounded, following)

    def moved(self, origin: Float[Tensor, "batch n"]) -> "Anderson":
        """Return the same where x is measured from another origin, at this point."""
        return replace(self, target=self.target - origin, best=self.best - origin)


def _any(mask: Bool[Tensor, "batch"]) -> bool:
    """Return whether there may be some; a GPU is not waited for."""
    return mask.is_cuda or bool(mask.any())
