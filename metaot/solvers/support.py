"""What a second-order method sees of a batch of problems: their supports, each with its smaller side first."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.geometry import Dense
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem


@final
@dataclass(frozen=True)
class Support:
    """The atoms with mass, padded to the largest of the batch with atoms without.

    Rows are the smaller side of each instance, columns the larger one: `exchanged` where the rows are the
    target's. That depends on the instance alone, not on the company that it is in.
    """

    exchanged: Bool[Tensor, "batch"]
    rows: Int[Tensor, "batch k"]
    columns: Int[Tensor, "batch l"]
    a: Float[Tensor, "batch k"]
    b: Float[Tensor, "batch l"]

    @classmethod
    def of(cls, problem: Problem) -> "Support":
        """Find the atoms with mass."""
        sizes = torch.stack([(problem.a != 0).sum(-1), (problem.b != 0).sum(-1)])
        exchanged = sizes[0] > sizes[1]
        k, l = (int(side.max()) if len(side) else 1 for side in (sizes.amin(0), sizes.amax(0)))
        (i, a), (j, b) = _with_mass(problem.a, l), _with_mass(problem.b, l)
        swap = exchanged[:, None]
        return cls(
            exchanged=exchanged,
            rows=torch.where(swap, j, i)[:, :k],
            columns=torch.where(swap, i, j),
            a=torch.where(swap, b, a)[:, :k],
            b=torch.where(swap, a, b),
        )

    def cost(self, problem: Problem) -> Float[Tensor, "batch k l"]:
        """Return the cost between rows and columns."""
        C = problem.a.new_zeros(*self.a.shape, self.b.shape[-1])
        for side, _, part in self._sides(problem):
            C[side] = part.geometry.cost_block(self.rows[side], self.columns[side]).to(C)
        return C

    def problem(self, C: Float[Tensor, "batch k l"]) -> Problem:
        """Return the problems on the support, with the cost in units of eps."""
        return Problem.trusted(self.a, self.b, Dense(C), 1.0)

    def gather(self, f: Float[Tensor, "batch n"]) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch l"]]:
        """Return a function on the source: on the rows, and on the columns, for those who have it there."""
        last = f.shape[-1] - 1
        on_rows, on_columns = (f.gather(-1, atoms.clamp_max(last)) for atoms in (self.rows, self.columns))
        swap = self.exchanged[:, None]
        return (
            torch.where((self.a != 0) & ~swap, on_rows, 0.0),
            torch.where((self.b != 0) & swap, on_columns, 0.0),
        )

    def complete(self, problem: Problem, f: Float[Tensor, "batch k"]) -> DualPotentials:
        """Continue potentials of the rows by the best ones: on all columns, then on rows without mass."""
        whole = DualPotentials(torch.empty_like(problem.a), torch.empty_like(problem.b))
        for side, exchanged, part in self._sides(problem):
            on_rows = torch.zeros_like(part.a).scatter_add(-1, self.rows[side], f[side] * (self.a[side] != 0))
            on_columns = c_transform(part, on_rows)
            best = c_transform(part.T, on_columns)
            mine = whole.T if exchanged else whole
            mine.f[side] = torch.where(part.a != 0, on_rows, best)
            mine.g[side] = on_columns
        return whole

    def _sides(self, problem: Problem) -> Iterator[tuple[Tensor, bool, Problem]]:
        """Yield who is exchanged and who is not, whether they are, and their problems with the rows as source."""
        for exchanged in (False, True):
            side = self.exchanged == exchanged
            if bool(side.any()):
                part = problem[side]
                yield side, exchanged, part.T if exchanged else part


def _with_mass(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` atoms of each instance and their weights, those with mass first; padded if there are less."""
    atoms = (weights == 0).to(torch.uint8).argsort(dim=-1, stable=True)[:, :count]
    padding = (0, count - atoms.shape[-1])
    pad = torch.nn.functional.pad
    return pad(atoms, padding), pad(weights.gather(-1, atoms), padding)
