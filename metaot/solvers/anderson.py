"""Anderson acceleration of Sinkhorn's algorithm: the next step starts from a combination of the last points.

A Sinkhorn step moves the potential x by its residual r(x), the logarithm of the weights over the marginal. Near
the solution r is linear, and symmetric in L2(a). Of all affine combinations of the last points, the next step
starts from the one with the smallest residual (Anderson 1965; Walker and Ni, SIAM J. Numer. Anal. 2011), as MINRES
would.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MEMORY = 10
"""Steps that are remembered. Once the memory is full, every second step combines: that is quicker, and safer."""

BEYOND = 1.3
"""How many times its residual a step moves."""

GROWTH, STALE, PROGRESS = 2.0, 40, 0.9
"""The factor by which the error may grow above its least value, and the steps that it may stay above it. Then the
iteration returns to the point of the least error and makes plain steps, which lower it: one, or twice as many as
the last time unless the least error has fallen below this part of the one then."""

RIDGE = 1e-12
"""Relative, on the products of the changes, which become nearly dependent."""

FARTHEST, MUCH = 35.0, 100.0
"""The largest residual that counts as linear in x: larger ones are followed by plain steps, and nothing is
remembered. A combination whose coefficients have a larger sum of squares moves x by no more."""


@final
@dataclass(frozen=True)
class Anderson:
    """The last points x of each instance, logarithms of scalings, and their residuals r.

    The memory is written in place: only the latest state of a run may be stepped from.
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
    """The points since the memory was emptied."""
    least: Float[Tensor, "batch"]
    best: Float[Tensor, "batch n"]
    """The least error, and where a plain step leads from there."""
    stale: Int[Tensor, "batch"]
    """The steps since then."""
    plain: Int[Tensor, "batch"]
    stretch: Int[Tensor, "batch"]
    mark: Float[Tensor, "batch"]
    """Plain steps still to be made; their number when the instance last returned, and the error there."""
    forgets: Bool[Tensor, "batch"] | None = None
    """Which instances go to `best` in the next step, with an empty memory; None for none."""
    count: int = 0
    """Steps of the batch."""

    @classmethod
    def of(cls, weights: Float[Tensor, "batch n"]) -> "Anderson":
        """Begin with an empty memory."""
        batch, n = weights.shape
        zeros, one = torch.zeros_like(weights), torch.ones_like(weights[:, 0], dtype=torch.int64)
        far = torch.full_like(weights[:, 0], torch.inf)
        return cls(
            roots=weights.sqrt(),
            target=zeros,
            missing=zeros,
            moves=weights.new_zeros(batch, MEMORY, n),
            changes=weights.new_zeros(batch, MEMORY, n),
            gram=torch.eye(MEMORY, dtype=weights.dtype, device=weights.device).repeat(batch, 1, 1),
            shown=0 * one,
            least=far,
            best=zeros,
            stale=0 * one,
            plain=one,
            stretch=one,
            mark=far,
        )

    def judged(self, x: Tensor, residual: Tensor, error: Float[Tensor, "batch"]) -> "Anderson":
        """Record the error of a point; instances whose error has grown return to the best one, and forget."""
        nearer = error <= self.least
        lost = ~(error <= GROWTH * self.least) | (~nearer & (self.stale >= STALE))
        far = ~lost & ~(residual.abs().amax(-1) <= FARTHEST)
        best = x + residual
        if not bool((nearer | far).all()):
            best = torch.where((nearer | far)[:, None], best, self.best)
        least, stale = torch.where(nearer, error, self.least), torch.where(nearer, 0, self.stale + 1)
        judged = replace(self, least=least, best=best, stale=stale, forgets=None)
        return judged._forgetting(lost, far) if bool((lost | far).any()) else judged

    def _forgetting(self, lost: Bool[Tensor, "batch"], far: Bool[Tensor, "batch"]) -> "Anderson":
        """Empty the memory of some instances, and have them make plain steps."""
        forgets = lost | far
        longer = torch.where(self.least < PROGRESS * self.mark, 1, 2 * self.stretch)
        stretch = torch.where(lost, longer, self.stretch)
        return replace(
            self.emptied(forgets),
            stretch=stretch,
            plain=torch.where(forgets, stretch, self.plain),
            least=torch.where(far, torch.inf, self.least),
            mark=torch.where(far, torch.inf, torch.where(lost, self.least, self.mark)),
            forgets=forgets,
        )

    def next(
        self, x: Tensor, residual: Tensor, exact: Bool[Tensor, "batch"] | None = None
    ) -> "tuple[Tensor, Anderson]":
        """Return the next point, and the memory with x in it; steps of `exact` instances go no further."""
        target, missing = x.add(residual, alpha=BEYOND), self.roots * residual
        if exact is not None:
            target = torch.where(exact[:, None], x + residual, target)
        following = self._mixed(x, target, missing) if self.count > 0 else target
        straight = self.plain > 0
        plain, shown, stale = (self.plain - 1).clamp_min(0), self.shown + 1, torch.where(straight, 0, self.stale)
        if _any(straight):
            following = torch.where(straight[:, None], x + residual, following)
        if self.forgets is not None:
            following = torch.where(self.forgets[:, None], self.best, following)
            plain, shown = torch.where(self.forgets, self.plain, plain), torch.where(self.forgets, 0, shown)
        count = self.count + 1
        return following, replace(
            self, target=target, missing=missing, plain=plain, shown=shown, stale=stale, forgets=None, count=count
        )

    def _mixed(self, x: Tensor, target: Tensor, missing: Tensor) -> Tensor:
        """Remember the last step; return the combination of the last targets with the smallest residual."""
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

    def emptied(self, which: Bool[Tensor, "batch"]) -> "Anderson":
        """Forget the last points of some instances."""
        for memory in (self.moves, self.changes):
            memory[which] = 0
        self.gram[which] = torch.eye(MEMORY, dtype=self.gram.dtype, device=self.gram.device)
        shown, stale = (torch.where(which, 0, count) for count in (self.shown, self.stale))
        return replace(self, shown=shown, stale=stale)

    def restarted(self, which: Bool[Tensor, "batch"]) -> "Anderson":
        """Begin anew in some instances, whose problem is another one from here on."""
        far = torch.where(which, torch.inf, self.least), torch.where(which, torch.inf, self.mark)
        short = torch.where(which, 1, self.stretch), torch.where(which, 1, self.plain)
        return replace(self.emptied(which), least=far[0], mark=far[1], stretch=short[0], plain=short[1])

    def moved(self, origin: Float[Tensor, "batch n"]) -> "Anderson":
        """Return the same memory for x measured from this origin."""
        return replace(self, target=self.target - origin, best=self.best - origin)


def _any(mask: Bool[Tensor, "batch"]) -> bool:
    """Return whether there may be some; a GPU is not waited for."""
    return mask.is_cuda or bool(mask.any())
