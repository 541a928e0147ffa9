"""Assignments: to each row of a square matrix of costs its column, each column once, with a low mean cost.

The auction of Bertsekas (1988): a row without a column bids for the one with the least cost + price, and raises
its price by what that is better than the second one, and by eps. Where no row could gain more than eps elsewhere,
the mean cost is within eps of the least one. The exact assignment follows from the prices by shortest augmenting
paths (Jonker and Volgenant 1987). On a CPU compiled code lets one row bid at a time (metaot/core/src/assign.c);
where prices are near those of the exact assignment, a few bids without eps come before the paths. Here all rows
without a column bid at once: the same guarantee, and perhaps other pairs.
"""

from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core

_COARSE, _SCALED = 0.1, 4.0
"""Auctions begin at this part of the spread of the costs, and go on with an eps that is so many times smaller."""

_NEAR = 0.01
"""The part of the spread of the one auction from prices that are near, before shortest paths."""

_FINEST = 1e-4
"""The part of the spread at which shortest paths take over; for a smaller eps the exact assignment is found."""

_COARSEST = 10.0
"""The part of the spread above which an eps, such as 1e308, is lowered: prices would leave floating point."""

_ROUNDING = 1e-8
"""The least spread, in units of the costs: bids of less would leave prices as they are."""

_FEW = 4
"""Coordinates up to which distances are made as they are needed rather than kept."""

_SAMPLE, _ROWS = 64, 256
"""Rows that the spread is taken from; rows that are looked at together."""


@final
class Assigned(NamedTuple):
    """The column of each row, a lower bound of the mean cost of all assignments, and the prices that prove it."""

    columns: Int[Tensor, "n"]
    lower: Float[Tensor, ""]
    prices: Float[Tensor, "n"]


def spread(C: Float[Tensor, "n m"]) -> float:
    """Return the standard deviation of what is left of C beside a function of the row and one of the column.

    From some of the rows, if there are many.
    """
    some = C[:: max(1, C.shape[0] // _SAMPLE)]
    rest = some - some.mean(1, keepdim=True)
    return float((rest - rest.mean(0)).double().square().mean().sqrt())


def assigned(
    C: Float[Tensor, "n n"], eps: float, scale: float, start: Float[Tensor, "n"] | None = None
) -> Assigned:
    """Assign rows to columns: the mean cost is within eps of the least one. `scale` is the spread of C.

    `start` are prices of columns near those of the assignment, such as potentials with the other sign.
    """
    some = C[:: max(1, len(C) // _SAMPLE)].double()
    scale = max(scale, _ROUNDING * float(some.abs().amax()))
    exact = eps <= _FINEST * scale
    last = max(min(eps, _COARSEST * scale), _FINEST * scale)
    if scale == 0:
        each = torch.arange(len(C), device=C.device)
        return Assigned(each, C.double().diagonal().mean(), C.new_zeros(len(C), dtype=torch.float64))
    near = exact and start is not None
    phases = [max(last, (_COARSE if start is None else _NEAR) * scale)]
    while phases[-1] > last and not near:
        phases.append(max(last, phases[-1] / _SCALED))
    prices = -some.mean(0) if start is None else start.to(C.device, torch.float64, copy=True)
    if C.is_cpu and core.COMPILED:
        steps = np.array([0.0] if near else phases)
        return _compiled(C.detach().numpy(), steps, prices, exact=exact)
    auction = _Auction(C, prices)
    for phase in phases:
        auction.run(phase)
    if exact:
        auction.make_exact()
    lower = (auction.best().sum() - auction.prices.sum()) / len(C)
    return Assigned(auction.columns, lower, auction.prices)


def assigned_points(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], f: Float[Tensor, "n"] | None = None
) -> Assigned:
    """Return the exact assignment of x to y for squared distances; f is near the potential of x, if it is known.

    Then, of points with few coordinates on a CPU, there is no matrix of distances.
    """
    if f is not None and x.is_cpu and core.COMPILED and x.shape[1] <= _FEW:
        x, y, f = (each.detach().double() for each in (x, y, f))
        return _compiled((x.numpy(), y.numpy(), f.numpy()), np.zeros(1), torch.empty_like(f), exact=True)
    C = torch.addmm(y.square().sum(1), x, y.mT, alpha=-2).add_(x.square().sum(1)[:, None])
    return assigned(C, 0.0, spread(C), None if f is None else (f[:, None] - C).amax(0))


def _compiled(
    costs: np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray],
    steps: np.ndarray,
    prices: Float[Tensor, "n"],
    *,
    exact: bool,
) -> Assigned:
    columns, total = core.assign_rows(costs, steps, prices.numpy(), exact=exact)
    return Assigned(torch.from_numpy(columns), torch.tensor(total / len(columns), dtype=torch.float64), prices)


class _Auction:
    """Prices of columns in float64, and which column each row has, and each column's row; -1 for none."""

    def __init__(self, C: Float[Tensor, "n n"], prices: Float[Tensor, "n"]) -> None:
        self.C, self.prices, n = C, prices, len(C)
        self.columns, self.rows = (torch.full((n,), -1, device=C.device) for _ in range(2))

    def run(self, eps: float) -> None:
        """Let rows bid until each has a column."""
        self.columns, self.rows = (torch.full_like(each, -1) for each in (self.columns, self.rows))
        while len(waiting := (self.columns < 0).nonzero()[:, 0]):
            self._bid(waiting, eps)

    def _bid(self, rows: Int[Tensor, "k"], eps: float) -> None:
        """Let rows bid; of those that want one column the highest bid wins, of equal ones the first row's."""
        values = self.C[rows] + self.prices
        best, wanted = values.min(-1)
        second = values.scatter_(1, wanted[:, None], torch.inf).amin(-1)
        bids = self.prices[wanted] + eps + torch.where(second.isfinite(), second - best, 0.0)
        highest = torch.full_like(self.prices, -torch.inf).scatter_reduce(0, wanted, bids, "amax")
        last = torch.full_like(rows, len(self.C))
        first = torch.full_like(self.rows, len(self.C)).scatter_reduce(
            0, wanted, torch.where(bids == highest[wanted], rows, last), "amin"
        )
        wins = first[wanted] == rows
        rows, wanted = rows[wins], wanted[wins]
        before = self.rows[wanted]
        self.columns[before[before >= 0]] = -1
        self.rows[wanted], self.columns[rows], self.prices[wanted] = rows, wanted, bids[wins]

    def best(self) -> Float[Tensor, "n"]:
        """Return the least cost + price of each row."""
        return torch.cat([(part + self.prices).amin(-1) for part in self.C.split(_ROWS)])

    def make_exact(self) -> None:
        """Keep the pairs that are the best of their rows, and assign the other rows along shortest paths."""
        best = self.best()
        own = self.C.gather(1, self.columns[:, None])[:, 0] + self.prices[self.columns]
        lost = (own > best).nonzero()[:, 0]
        self.rows[self.columns[lost]] = -1
        self.columns[lost] = -1
        for start in lost.tolist():
            self._augment(start, best)

    def _augment(self, start: int, best: Float[Tensor, "n"]) -> None:
        """Assign one more row along the shortest path to a column that is free; `best` is brought up to date."""
        prices, paths = self.prices.clone(), torch.full_like(self.prices, torch.inf)
        before, row, reach = torch.full_like(self.rows, -1), start, 0.0
        columns: list[int] = []
        lengths: list[float] = []
        while row >= 0:
            through = reach - best[row] + (self.C[row] + prices)
            before = torch.where(through < paths, row, before)
            paths = torch.minimum(paths, through)
            column = int(paths.argmin())
            reach = float(paths[column])
            columns.append(column)
            lengths.append(reach)
            paths[column] = prices[column] = torch.inf
            row = int(self.rows[column])
        done = torch.tensor(columns, device=best.device)
        raised = reach - torch.tensor(lengths, dtype=best.dtype).to(best)
        self.prices[done] += raised
        best[start] += reach
        best[self.rows[done[:-1]]] += raised[:-1]
        column = columns[-1]
        while row != start:
            row = int(before[column])
            following = int(self.columns[row])
            self.rows[column], self.columns[row] = row, column
            column = following
