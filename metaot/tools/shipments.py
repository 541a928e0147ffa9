"""What a planner reads off a solution: who sends how much to whom, at what cost and at what prices."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.earth import KILOMETRES
from metaot.solvers import Solution

_ROWS = 64
"""Rows of the plan that are made at once."""


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
        return self.cost * KILOMETRES

    def __len__(self) -> int:
        return len(self.quantity)


@torch.no_grad()
def shipments(solution: Solution, *, least: float = 1e-6) -> Shipments:
    """Return who sends at least the quantity `least` to whom, in the solution of one problem.

    Quantities are shares of the whole; what is missing of one is in entries below `least`. The whole plan is never
    kept. Raises ValueError for a batch, and for a `least` that is not positive.
    """
    problem, potentials = solution.problem, solution.potentials
    if problem.batch_shape:
        raise ValueError(
            f"shipments are of one problem, got a batch {tuple(problem.batch_shape)}: solve problem[k]"
        )
    if not least > 0:
        raise ValueError(f"least must be positive, got {least}: the plan has no zeros")
    h, b, eps = potentials.g, problem.b, problem.eps
    parts = []
    for start in range(0, len(problem.a), _ROWS):
        rows = slice(start, start + _ROWS)
        C = problem.geometry.cost_rows(rows).to(h)
        P = problem.a[rows, None] * b * torch.exp(((potentials.f[rows, None] + h - C) / eps).clamp_max(700))
        supplier, customer = (least <= P).nonzero(as_tuple=True)
        parts.append((supplier + start, customer, P[supplier, customer], C[supplier, customer]))
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
    a, f = solution.problem.a, solution.potentials.f
    return f - (f * a).sum(-1, keepdim=True)
