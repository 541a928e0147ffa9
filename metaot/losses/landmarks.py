"""Starts of the problems between many measures, from those that were solved before.

The potentials f_ij of a measure i to all others j are nearly linear in those to a few landmarks l:

    f_ij = sum_l W_jl f_il

The problems between landmarks and all measures, which the matrix contains anyway, show both sides: f_il, and the
weights W by least squares, from the potentials f_kj of landmarks k. It is a skeleton of the matrix of potentials,
of which some rows and columns are known (Goreinov, Tyrtyshnikov and Zamarashkin 1997).
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GROUP = 16
"""Landmarks after which the weights are computed anew."""

_MOST, _SHARE = 256, 3
"""The most landmarks, and how many measures there are for each at least."""

_ROOM = 2**26
"""Potentials that are kept, in float32."""

_RIDGE = 1e-4
"""Of the least squares, in units of the mean diagonal."""


@final
class Landmarks:
    """Potentials between the first of some measures and all of them, noted row by row.

    `own` are the potentials of each measure to itself, `most` the landmarks that are wanted; None chooses.
    """

    def __init__(self, weights: Float[Tensor, "N n"], own: Float[Tensor, "N n"], most: int | None) -> None:
        self._weights, self._own, has_mass = weights, own, weights > 0
        self._ends, self._places = [0, *has_mass.sum(-1).cumsum(0).tolist()], has_mass.flatten().nonzero()[:, 0]
        count, total = len(weights), max(1, self._ends[-1])
        chosen = min(_MOST, count // _SHARE) if most is None else min(most, count)
        self.count = min(chosen, _ROOM // total) // _GROUP * _GROUP
        self._to = weights.new_zeros((self.count, total), dtype=torch.float32)
        self._gram = weights.new_zeros(self.count, count)
        self._row = weights.new_zeros(0)
        self._shares: Tensor | None = None
        self._starts = weights.new_zeros(0, weights.shape[1])

    def starts(self, i: Int[Tensor, "k"], j: Int[Tensor, "k"]) -> Float[Tensor, "k n"] | None:
        """Return f for pairs, in the order of their first measures; None as long as nothing is known."""
        if self._shares is None:
            return None
        if len(self._starts) < len(i):
            self._starts = self._weights.new_zeros(len(i), self._weights.shape[1])
        found = self._starts[: len(i)]  # what other rows left on atoms without mass is of no account
        rows, lengths = (part.tolist() for part in i.unique_consecutive(return_counts=True))
        known = self._shares.shape[1]
        for row, part, follow in zip(rows, found.split(lengths), j.split(lengths), strict=True):
            here = self._shares[follow] @ self._to[:known, self._atoms(row)]
            part.index_copy_(1, self._atoms_of(row), here.to(part))
        return found

    def note(self, row: int, first: int, f: Float[Tensor, "k n"], g: Float[Tensor, "k n"]) -> None:
        """Keep potentials of a landmark to the measures from `first` on, which follow what was noted before."""
        last, here, atoms = first + len(f), self._atoms(row), self._atoms_of(row)
        mass = self._weights[row, atoms]
        if len(self._row) == 0:
            self._row = mass.new_zeros(len(self._weights), len(mass))
            self._to[row, here] = self._own[row, atoms].float()
            self._row[: row + 1] = self._to[: row + 1, here]
        self._row[first:last] = f.index_select(1, atoms)
        self._to[first:last, here] = self._row[first : min(last, self.count)].float()
        begin, end = self._ends[first], self._ends[last]
        self._to[row, begin:end] = g.flatten()[self._places[begin:end] - first * g.shape[1]].float()
        if last == len(self._weights):
            self._close(row + 1, mass)

    def _close(self, known: int, mass: Float[Tensor, "atoms"]) -> None:
        """Take what a landmark's potentials to all measures tell of the weights W."""
        row = self._row - (self._row @ mass)[:, None]
        row = (row * mass.sqrt()).float()
        self._gram += row[: self.count] @ row.mT
        self._row = mass[:0]
        if known % _GROUP == 0:
            gram = self._gram[:known, :known]
            ridge = _RIDGE * gram.diagonal().mean() * torch.eye(known).to(gram)
            self._shares = torch.linalg.solve(gram + ridge, self._gram[:known]).mT.float()

    def _atoms_of(self, row: int) -> Int[Tensor, "atoms"]:
        return self._places[self._atoms(row)] - row * self._weights.shape[1]

    def _atoms(self, row: int) -> slice:
        return slice(self._ends[row], self._ends[row + 1])
