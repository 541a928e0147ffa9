"""Costs of all pairs of points: a matrix, and what to add to its rows and columns, which changes no assignment."""

from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.geometry import Points
from metaot.geometry.costs import Cost

_NEAR = 0.25, 0.9
"""The part of the mean square of points up to which that of their mean counts as near the origin: of x0, whose
mean would favour some columns of the matrix of products, and of x1, whose mean costs some digits only."""

_WORTH_ROUNDING = 2**24
"""Products of numbers from which on rounding them first is worth its time."""


@final
class PairCosts(NamedTuple):
    """The costs are C + rows[:, None] + columns.

    Of rounded points C has at most this error in the mean of entries with each row and each column once; where
    errors are as often above as below zero, it is smaller by orders of magnitude.
    """

    C: Float[Tensor, "n m"]
    rows: Float[Tensor, "n"]
    columns: Float[Tensor, "m"]
    error: float = 0.0

    def taken(self, rows: Int[Tensor, "k"] | None, columns: Int[Tensor, "k"] | None) -> "PairCosts":
        """Return the costs of these rows and columns, None for all of them, if they are not rounded."""
        costs = self
        if rows is not None:
            costs = costs._replace(C=costs.C[rows], rows=costs.rows[rows])
        if columns is not None:
            costs = costs._replace(C=costs.C.index_select(1, columns), columns=costs.columns[columns])
        return costs

    def mean(self) -> Float[Tensor, ""]:
        """Return the mean of C, whose rows are short enough for sums in its own dtype."""
        return self.C.mean(1).mean(dtype=torch.float64)


def pair_costs(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], cost: str | Cost, *, rounded: bool) -> PairCosts:
    """Return the costs of pairs of points, rounded if that is allowed and faster.

    Of squared distances the matrix is the product of the points: no pass over it is needed for their squares.
    """
    if cost != "sqeuclidean":
        return PairCosts(Points(x, y, cost).cost_rows(slice(None)).to(x), x.new_zeros(len(x)), y.new_zeros(len(y)))
    (x, mean_x, rows), (y, mean_y, columns) = _centred(x, _NEAR[0]), _centred(y, _NEAR[1])
    if mean_x is not None or mean_y is not None:
        zero = x.new_zeros(x.shape[1])
        apart = (zero if mean_x is None else mean_x) - (zero if mean_y is None else mean_y)
        rows, columns = rows + 2 * (x @ apart) + apart.square().sum(), columns - 2 * (y @ apart)
    single = x.is_cpu and x.dtype == torch.float32
    if rounded and single and x.numel() * len(y) >= _WORTH_ROUNDING and core.quick_products():
        C, error = core.multiply_rows(x.numpy(), y.numpy(), factor=-2.0, threads=torch.get_num_threads())
        return PairCosts(torch.from_numpy(C), rows, columns, error)
    return PairCosts(torch.addmm(x.new_zeros(1, 1), x, y.mT, beta=0, alpha=-2), rows, columns)


def _centred(
    x: Float[Tensor, "n d"], near: float
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "d"] | None, Float[Tensor, "n"]]:
    """Return points without their mean, the mean, and the squares of what is left.

    Points that are near the origin are returned as they are, with no mean.
    """
    mean, squares = x.mean(0), torch.linalg.vector_norm(x, dim=1).square()
    if bool(mean.square().sum() <= near * squares.mean()):
        return x, None, squares
    x = x - mean
    return x, mean, torch.linalg.vector_norm(x, dim=1).square()
