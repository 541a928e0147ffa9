"""The atoms with mass: a problem on them alone has the same solution, and is often much smaller."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Dense
from metaot.geometry.base import expand_eps
from metaot.potentials import DualPotentials
from metaot.problem import Problem


@final
@dataclass(frozen=True)
class Support:
    """The atoms with mass, padded to the most of the batch with atoms without, and the problem on them.

    Costs, potentials and temperature of `problem` are in units of eps.
    """

    rows: Int[Tensor, "batch k"]
    columns: Int[Tensor, "batch l"]
    problem: Problem

    @classmethod
    def of(cls, problem: Problem) -> "Support":
        """Find the atoms with mass, and the costs between them."""
        rows, a = _with_mass(problem.a)
        columns, b = _with_mass(problem.b)
        C = problem.geometry.cost_block(rows, columns).to(a).div_(expand_eps(problem.eps, a, 2))
        return cls(rows, columns, Problem.trusted(a, b, Dense.trusted(C), 1.0))

    def gathered(self, problem: Problem, potentials: DualPotentials) -> DualPotentials:
        """Return what is on the support of potentials of the whole problem."""
        eps = expand_eps(problem.eps, potentials.f)
        return DualPotentials(
            potentials.f.gather(-1, self.rows) / eps, potentials.g.gather(-1, self.columns) / eps
        )

    def spread(self, problem: Problem, f: Float[Tensor, "batch k"]) -> Float[Tensor, "batch n"]:
        """Return a potential of the whole problem with these values on the source's atoms with mass."""
        f = torch.where(self.problem.a != 0, f, 0.0) * expand_eps(problem.eps, f)
        return torch.zeros_like(problem.a).scatter_add(-1, self.rows, f)


def _with_mass(weights: Float[Tensor, "batch n"]) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Return the atoms with mass of each instance, and their weights; padded with the atom 0 and no weight."""
    mass = weights != 0
    instance, atom = mass.nonzero(as_tuple=True)
    if len(weights) == 1:
        return atom[None], weights[:, atom]
    place = (mass.cumsum(-1) - 1)[instance, atom]
    count = int(mass.sum(-1).amax()) if len(weights) else 1
    atoms = torch.zeros(len(weights), count, dtype=torch.int64, device=weights.device)
    atoms[instance, place] = atom
    values = weights.new_zeros(atoms.shape)
    values[instance, place] = weights[instance, atom]
    return atoms, values
