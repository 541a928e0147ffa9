"""Shipments, prices and images between two images, from a plan that is made in blocks of rows."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Grid
from metaot.geometry.costs import KILOMETRES
from metaot.potentials import DualPotentials, PotentialsLike, as_potentials, centred, plan_rows
from metaot.problem import Problem, require_balanced, require_problem
from metaot.solvers import Solution

BLOCK = 2**20
"""Entries of the plan that are made at once: 8 MiB."""


@final
@dataclass(frozen=True)
class Shipments:
    """The entries of a plan above a threshold, the largest first."""

    supplier: Int[Tensor, "count"]
    customer: Int[Tensor, "count"]
    quantity: Float[Tensor, "count"]
    cost: Float[Tensor, "count"]
    """Of one unit, in the units of the cost: radians on the sphere."""

    @property
    def kilometres(self) -> Float[Tensor, "count"]:
        """The length of each way on the Earth, for costs that are angles."""
        return kilometres(self.cost)

    def __len__(self) -> int:
        return len(self.quantity)


@torch.no_grad()
def shipments(solution: Solution, *, least: float = 1e-6) -> Shipments:
    """Return who sends at least the quantity `least` to whom, in the solution of one problem.

    Quantities are shares of the whole; without the entries below `least`, their sum is less than one. Raises
    ValueError for a batch, and for a `least` that is not positive.
    """
    problem = solution.problem
    if problem.batch_shape:
        raise ValueError(
            f"shipments are of one problem, got a batch {tuple(problem.batch_shape)}: solve problem[k]"
        )
    if not least > 0:
        raise ValueError(f"least must be positive, got {least}: the plan has no zeros")
    parts = []
    n, m = problem.geometry.shape
    for rows in torch.arange(n, device=problem.a.device).split(max(1, BLOCK // m)):
        C = problem.geometry.cost_rows(rows).to(problem.a)
        P = plan_rows(problem, solution.potentials, rows, C)
        row, customer = (least <= P).nonzero(as_tuple=True)
        parts.append((rows[row], customer, P[row, customer], C[row, customer]))
    supplier, customer, quantity, cost = (torch.cat(part) for part in zip(*parts, strict=True))
    order = quantity.argsort(descending=True)
    return Shipments(supplier[order], customer[order], quantity[order], cost[order])


def kilometres(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the length on the Earth of an angle in radians, as costs on the sphere are."""
    return angle * KILOMETRES


def marginal_prices(solution: Solution) -> Float[Tensor, "*batch n"]:
    r"""Return the rate at which the value changes when a supplier gets more, and all get less in proportion.

    The potential f - <f, a>, which by the envelope theorem is the derivative of the value in a, in the units of
    the cost. The lower it is, the more one unit more is worth at that place; also at places that have nothing yet.
    """
    require_balanced(solution.problem, "marginal_prices")
    return centred(solution.problem.a, solution.potentials.f)


@torch.no_grad()
def displacement_interpolation(
    problem: Problem, potentials: PotentialsLike, t: float
) -> Float[Tensor, "*batch n"]:
    """Move the mass P_ij of the plan to (1 - t) x_i + t y_j and share it among the nearest atoms of the grid.

    McCann's interpolation. The atoms around a position get its mass d-linearly. The sum is that of the plan; t = 0
    gives P 1 and t = 1 gives P^T 1. ValueError unless the geometry is a `Grid` and t in [0, 1].
    """
    potentials = as_potentials(require_problem(problem), potentials)
    grid = problem.geometry
    if not isinstance(grid, Grid):
        raise ValueError(f"displacement interpolation is for a Grid, got {grid}")
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie between 0 and 1, got {t}")
    flat, (n, m) = problem.flat(), grid.shape
    flat_potentials = DualPotentials(potentials.f.reshape(-1, n), potentials.g.reshape(-1, m))
    total = torch.zeros_like(flat.a)
    for k in range(len(total)):
        sources, targets = (weights[k].nonzero()[:, 0] for weights in (flat.a, flat.b))
        for rows in sources.split(max(1, BLOCK // m)):
            P = plan_rows(flat[k], flat_potentials[k], rows, flat[k].geometry.cost_rows(rows))
            _add_moved(total[k], P[:, targets], grid, (rows, targets), t)
    return total.reshape(problem.a.shape)


def _add_moved(
    total: Float[Tensor, "n"],
    P: Float[Tensor, "rows columns"],
    grid: Grid,
    atoms: tuple[Int[Tensor, "rows"], Int[Tensor, "columns"]],
    t: float,
) -> None:
    """Add the mass of these rows and columns of the plan to `total`, at time t."""
    corners = [(torch.zeros(P.shape, dtype=torch.int64, device=P.device), P)]
    sources, targets = (torch.unravel_index(index, grid.sizes) for index in atoms)
    for axis, i, j in zip(grid.axes, sources, targets, strict=True):
        low, high, share = _neighbours(axis, (1 - t) * axis[i, None] + t * axis[None, j])
        share = share.to(P)
        corners = [
            (atom * len(axis) + point, mass * part)
            for atom, mass in corners
            for point, part in ((low, 1 - share), (high, share))
        ]
    for atom, mass in corners:
        total.index_add_(0, atom.flatten(), mass.flatten())


def _neighbours(
    axis: Float[Tensor, "points"], position: Float[Tensor, "*shape"]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the points of an axis below and above each position, and the share of the one above."""
    coordinates, order = axis.sort()
    above = torch.searchsorted(coordinates, position.contiguous()).clamp(max=len(axis) - 1)
    below = (above - 1).clamp_min(0)
    gap = coordinates[above] - coordinates[below]
    share = ((position - coordinates[below]) / torch.where(gap > 0, gap, 1.0)).clamp(0, 1)
    return order[below], order[above], torch.where(gap > 0, share, 0.0)
