"""Losses of a potential and of an interaction that are quadratic in their parameters, from matched snapshots.

Gradients (JKOnet*, Terpin et al., arXiv 2406.12616): E |grad V + (new - old)/tau|^2. Values (arXiv 2505.07124, the
limit r -> infinity of the sharpened loss): the variance of V + f/tau, where f is the first variation of W_2^2/2 at
the new snapshot.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.inverse.quadratic import Quadratic
from metaot.inverse.snapshots import Move
from metaot.inverse.terms import Products, Terms

_ENTRIES = 2**22
"""Numbers that are made at a time."""


@final
@dataclass(frozen=True)
class Energy:
    """Features of V and, perhaps, of an even kernel W: the energy is <V, a> + <W a, a>/2."""

    potential: Terms
    interaction: Terms | None

    def sizes(self, x: Float[Tensor, "n d"]) -> tuple[int, int]:
        """Return the numbers of features of V and of W."""
        own, more = (0 if each is None else each(x[:1]).shape[1] for each in (self.potential, self.interaction))
        return own, more

    def values(self, x: Float[Tensor, "k d"], population: Float[Tensor, "n d"]) -> Float[Tensor, "k p"]:
        """Return the features of the first variation of the energy at points, in a population."""
        own = self.potential(x)
        if self.interaction is None:
            return own
        W, n, count = self.interaction, len(population), self.sizes(x)[1]
        parts = [
            W((part[:, None] - population).flatten(0, 1)).unflatten(0, (-1, n)).mean(1)
            for part in x.split(_rows(n * count))
        ]
        return torch.cat([own, torch.cat(parts)], 1)

    def slopes(self, x: Float[Tensor, "k d"], population: Float[Tensor, "n d"]) -> Float[Tensor, "k d p"]:
        """Return the gradients of these features at points."""
        own = self.potential.slopes(x)
        if self.interaction is None:
            return own
        W, n, count = self.interaction, len(population), self.sizes(x)[1]
        parts = [
            W.slopes((part[:, None] - population).flatten(0, 1)).unflatten(0, (-1, n)).mean(1)
            for part in x.split(_rows(n * count * x.shape[1]))
        ]
        return torch.cat([own, torch.cat(parts)], 2)


def match_gradients(energy: Energy, moves: Sequence[Move], share: float) -> Quadratic:
    """Return the mean over steps of E |(1 - share) grad V(old) + share grad V(new) - (old - new)/tau|^2 / 2."""
    if share == 1 and energy.interaction is None and isinstance(energy.potential.features[0], Products):
        return Quadratic.mean([_of_products(move) for move in moves])
    return Quadratic.mean([_gradients(energy, move, share) for move in moves])


def _gradients(energy: Energy, move: Move, share: float) -> Quadratic:
    """Return the loss of one step."""
    p, weight = sum(energy.sizes(move.x)), 1 / len(move.old)
    H, h = move.x.new_zeros(p, p), move.x.new_zeros(p)
    for old, new, force in _blocks(move, p):
        A: Tensor | float = 0.0
        if share < 1:
            A = (1 - share) * energy.slopes(old, move.x)
        if share > 0:
            A = A + share * energy.slopes(new, move.y)
        assert isinstance(A, Tensor)
        A = A.flatten(0, 1)
        H.addmm_(A.mT, A, alpha=weight)
        h.addmv_(A.mT, force.flatten(), alpha=weight)
    return Quadratic(H, h, move.force.square().sum(1).mean())


def _blocks(move: Move, p: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    rows = _rows(p * move.x.shape[1])
    yield from zip(move.old.split(rows), move.new.split(rows), move.force.split(rows), strict=True)


def _rows(entries: int) -> int:
    return max(1, _ENTRIES // max(1, entries))


def _of_products(move: Move) -> Quadratic:
    """Return the same for V = x^T theta x, whose gradient is linear: from moments of the points only."""
    second, with_force = move.new.mT @ move.new / len(move.new), move.force.mT @ move.new / len(move.new)
    return of_products(second, with_force, move.force.square().sum(1).mean())


def of_products(second: Tensor, with_force: Tensor, constant: Tensor) -> Quadratic:
    """Return E |(theta + theta^T) x - force|^2 / 2 from E x x^T and E force x^T, theta of d d, row by row."""
    d = len(second)
    eye = torch.eye(d, dtype=second.dtype, device=second.device)
    whole = torch.kron(eye, second)
    swap = torch.arange(d * d, device=second.device).reshape(d, d).mT.flatten()
    H = whole + whole[swap] + whole[:, swap] + whole[swap][:, swap]
    return of_matrix(Quadratic(H, (with_force + with_force.mT).flatten(), constant))


def of_matrix(loss: Quadratic) -> Quadratic:
    """Return a loss of a matrix that knows its symmetric part only, with a price for the other part.

    The minimum and its certificate are the same, and H has an inverse.
    """
    d = math.isqrt(len(loss.h))
    eye = torch.eye(d * d, dtype=loss.h.dtype, device=loss.h.device)
    swapped = eye.reshape(d, d, -1).transpose(0, 1).reshape(d * d, -1)
    return replace(loss, H=loss.H + 0.5 * loss.H.diagonal().mean() * (eye - swapped))


@final
@dataclass(frozen=True)
class Values:
    """The features at the points of a new snapshot, less their means, and f/tau there, less its mean."""

    features: Float[Tensor, "m p"]
    wanted: Float[Tensor, "m"]
    move: Move


def at_new(energy: Energy, moves: Sequence[Move]) -> list[Values]:
    """Return the features and the first variations at each new snapshot."""
    found = []
    for move in moves:
        assert move.potential is not None
        features, f = energy.values(move.y, move.y), move.potential / move.tau
        found.append(Values(features - features.mean(0), f - f.mean(), move))
    return found


def match_values(values: Sequence[Values], *, is_matrix: bool) -> Quadratic:
    """Return the mean over steps of Var[V + f/tau] / 2."""
    parts = []
    for each in values:
        A, n = each.features, len(each.wanted)
        part = Quadratic(A.mT @ A / n, -(A.mT @ each.wanted) / n, each.wanted.square().mean())
        parts.append(of_matrix(part) if is_matrix else part)
    return Quadratic.mean(parts)
