"""The best cut of a circle, by Delon, Salomon, Sobolevski (arXiv 0902.3527).

The atoms of y are met in the order of the line after a shift of their masses by t, which may be a whole turn. For
a convex cost of distances the cost of that plan is convex in t, and linear between shifts at which a corner of x
meets one of y. Masses are whole numbers, and so is the best shift: it is found exactly, with a bracket of slopes.
"""

from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.losses.quantiles import Cells, Corners, Match, Matched, cells_of

_NARROW = 2.0**-36
"""The share of a turn below which rounding of costs says nothing about where tangents meet."""


def on_the_circle(period: float) -> Match:
    """Return the function that finds optimal plans on a circle for atoms in [0, period]."""

    def match(x: Tensor, y: Tensor, corners: Corners, p: float) -> Matched:
        low, high = _best(x, y, corners, p, period)
        share = high.slope / (high.slope - low.slope).where(high.slope > low.slope, 1.0)
        share = share.where(high.slope > low.slope, 1.0)[:, None].to(x)
        return Matched(_cells(corners, low.shift, period), _cells(corners, high.shift, period), share)

    return match


@final
class _Cut(NamedTuple):
    """A shift of each row, its cost, and how the cost falls just before."""

    shift: Int[Tensor, "rows"]
    cost: Float[Tensor, "rows"]
    slope: Float[Tensor, "rows"]

    def where(self, choice: Tensor, other: "_Cut") -> "_Cut":
        return _Cut(*(own.where(choice, others) for own, others in zip(self, other, strict=True)))


def _best(x: Tensor, y: Tensor, corners: Corners, p: float, period: float) -> tuple[_Cut, _Cut]:
    """Return neighbouring shifts of each row between which the slope changes its sign: the first one is best."""

    def at(shift: Tensor) -> _Cut:
        cells = _cells(corners, shift, period)
        costs = (cells.between(x, y).double() / period).abs().pow(p)
        falls = costs.diff(dim=-1).where(cells.i.diff(dim=-1) == 0, 0.0)
        return _Cut(shift, (costs * cells.mass).sum(-1), falls.sum(-1) / corners.whole)

    shift = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    low, high, middle = at(shift - corners.whole), at(shift + corners.whole + 1), at(shift)
    turn = 0
    while True:
        rises = middle.slope > 0
        low, high = low.where(rises, middle), middle.where(rises, high)
        if bool((high.shift - low.shift <= 1).all()):
            return low, high
        is_narrow = bool((high.shift - low.shift < corners.whole * _NARROW).all())
        middle, turn = at(_between(low, high, 2 if is_narrow else turn)), turn + 1


def _between(low: _Cut, high: _Cut, turn: int) -> Int[Tensor, "rows"]:
    """Return a shift between two: in turn, where tangents meet, where slopes would be zero, and half way."""
    width = high.shift - low.shift
    if turn % 3 == 0:
        share = (high.cost - low.cost) / width - high.slope
        share = share / (low.slope - high.slope)
    elif turn % 3 == 1:
        share = low.slope / (low.slope - high.slope)
    else:
        share = torch.full_like(low.cost, 0.5)
    step = (share.nan_to_num(0.5).clamp(0, 1) * width).round().long()
    return low.shift + torch.minimum(step, width - 1).clamp(min=1).where(width > 1, 0)


def _cells(corners: Corners, shift: Int[Tensor, "rows"], period: float) -> Cells:
    """Return the plan that begins with the mass of y at `shift`; of equal corners that of x comes first."""
    whole, m = corners.whole, corners.y.shape[-1]
    turns = -torch.div(-shift, whole, rounding_mode="floor") - 1
    start = (shift - turns * whole)[:, None]  # in (0, whole]
    first = (corners.y < start).sum(-1, keepdim=True)
    met = (corners.y - start).remainder(whole)
    keys = torch.cat([(2 * corners.x[..., :-1]).expand(len(shift), -1), 2 * met + 1], -1)
    cells = cells_of(keys, corners.whole)
    order = cells.j + first + turns[:, None] * m
    over = torch.div(order, m, rounding_mode="floor")
    return Cells(cells.i, order - over * m, cells.mass, (over * period).double(), order)
