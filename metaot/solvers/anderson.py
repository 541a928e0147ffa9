"""Anderson acceleration of a batch: the rule of `metaot.single.anderson`, each instance with its own memory."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.single.anderson import BEYOND, FARTHEST, GROWTH, MEMORY, PROGRESS, RIDGE, STALE


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
            moves=weights.new_zeros(batch, MEMORY, n),
            changes=weights.new_zeros(batch, MEMORY, n),
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
        best = torch.where(nearer[:, None], x + residual, self.best)
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
        target, missing = x + BEYOND * residual, self.roots * residual
        following = target
        if self.shown > 0:
            k = (self.shown - 1) % MEMORY
            mask = self.remembers[:, None]
            self.moves[:, k] = torch.where(mask, target - self.target, 0.0)
            self.changes[:, k] = torch.where(mask, missing - self.missing, 0.0)
            known = slice(min(self.shown, MEMORY))
            changes = self.changes[:, known]
            looks_back = self.shown < MEMORY or self.shown % 2 == 1
            sides = torch.stack([changes[:, k], missing], -1) if looks_back else changes[:, k, :, None]
            products = changes @ sides
            self._learn(k, products[..., 0])
            if looks_back:
                mix, _ = torch.linalg.solve_ex(self.gram[:, known, known], products[..., 1:])
                following = target - (mix.mT @ self.moves[:, known])[:, 0]
        following = _not_too_far(x, following)
        plain = x + residual
        straight = self.plain > 0
        following = torch.where(straight[:, None] | ~following.isfinite(), plain, following)
        remembers, left = torch.ones_like(straight), (self.plain - 1).clamp_min(0)
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

    def _learn(self, k: int, products: Float[Tensor, "batch known"]) -> None:
        """Put the products of the newest change with all into their table; one where there is none."""
        known, own = slice(products.shape[1]), products[:, k]
        self.gram[:, k, known] = self.gram[:, known, k] = products
        self.gram[:, k, k] = torch.where(own > 0, own * (1 + RIDGE), 1.0)

    def moved(self, origin: Float[Tensor, "batch n"]) -> "Anderson":
        """Return the same where x is measured from another origin, at this point."""
        return replace(self, target=self.target - origin, best=self.best - origin)


def _not_too_far(x: Tensor, following: Tensor) -> Tensor:
    """Return points on the way from x that are within bounds; not finite ones as they are."""
    step = following - x
    length = step.abs().amax(-1, keepdim=True)
    return torch.where(length > FARTHEST, x + step * (FARTHEST / length), following)
