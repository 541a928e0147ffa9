"""Distances between measures on a line or a circle, row by row, with their derivatives, by one sort of each.

The optimal plan between sorted atoms is monotone: its cells (i, j) lie on a staircase, whose corners are the
cumulative masses of both measures. Masses are whole numbers here, so that equal ones are known to be equal. The
differences of the costs along the staircase are those of dual potentials, which are feasible since the costs
have the property of Monge; they are the derivatives with respect to the weights.
"""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from metaot.losses.sorting import order_rows, sort_rows

WHOLE = 2**60
"""The mass of a measure with weights."""


@final
class Wanted(NamedTuple):
    """Of what derivatives are made: points and weights."""

    x: bool = False
    y: bool = False
    a: bool = False
    b: bool = False


@final
class Slopes(NamedTuple):
    """Derivatives in points and weights, where they were wanted; in weights up to a constant."""

    x: Float[Tensor, "rows n"] | None = None
    y: Float[Tensor, "rows m"] | None = None
    a: Float[Tensor, "rows n"] | None = None
    b: Float[Tensor, "rows m"] | None = None


Masses = tuple[Int[Tensor, "r n"], Int[Tensor, "r m"]] | None
"""Masses of both measures, a row for each or one for all; None where all atoms of a measure weigh the same."""


@final
class Cells(NamedTuple):
    """The monotone plan between sorted atoms: cells from the lowest to the highest, of all rows or of each."""

    i: Int[Tensor, "*rows k"]
    j: Int[Tensor, "*rows k"]
    mass: Float[Tensor, "*rows k"]
    lift: Float[Tensor, "*rows k"] | None = None
    order: Int[Tensor, "*rows k"] | None = None

    def between(self, x: Float[Tensor, "rows n"], y: Float[Tensor, "rows m"]) -> Float[Tensor, "rows k"]:
        """Return x - y in each cell."""
        differences = _taken(x, self.i) - _taken(y, self.j)
        return differences if self.lift is None else differences - self.lift.to(x)


@final
class Matched(NamedTuple):
    """Optimal cells, and others of the same cost with the share that makes the potentials those of a circle."""

    cells: Cells
    other: Cells | None = None
    share: Float[Tensor, "rows 1"] | None = None


@final
class Corners(NamedTuple):
    """Cumulative masses of both measures, the last of each is `whole`; one row is that of all."""

    x: Int[Tensor, "rows n"]
    y: Int[Tensor, "rows m"]
    whole: int


Match = Callable[[Tensor, Tensor, Corners, float], Matched]
"""The optimal plans between sorted rows, for their corners and p."""


def _on_the_line(x: Tensor, y: Tensor, corners: Corners, p: float) -> Matched:
    return Matched(cells_between(corners))


@final
class Rule(NamedTuple):
    """What a distance is: p, and what finds the plans."""

    p: float
    match: Match = _on_the_line


def row_distances(
    x: Float[Tensor, "rows n"], y: Float[Tensor, "rows m"], masses: Masses, rule: Rule, wanted: Wanted
) -> tuple[Float[Tensor, "rows"], Slopes]:
    """Return W_p of each row, and its derivatives where they are wanted; x and y may be overwritten.

    At distance zero derivatives are zero.
    """
    x, x_order = order_rows(x) if masses or wanted.x else (sort_rows(x), None)
    y, y_order = order_rows(y) if masses or wanted.y else (sort_rows(y), None)
    if masses is None and x.shape == y.shape and rule.match is _on_the_line:
        found, slopes = _of_equal_atoms(x.sub_(y), rule.p, wanted)
    else:
        corners = _equal_corners(x, y) if masses is None else _corners(masses, x_order, y_order)
        found, slopes = _of_cells(rule.match(x, y, corners, rule.p), x, y, rule.p, wanted)
    orders = (x_order, y_order, x_order, y_order)
    return found, Slopes(*(_unsorted(slope, order) for slope, order in zip(slopes, orders, strict=True)))


def whole_masses(weights: Float[Tensor, "*rows n"]) -> Int[Tensor, "*rows n"]:
    """Return weights, of about mass one, as shares of WHOLE, whatever the order in which they are added."""
    double = weights.detach().double()
    total = (double * 2.0**52).round().long().sum(-1, keepdim=True).double()
    return (double * (WHOLE * 2.0**52 / total)).round().long()


def powered_mean(values: Float[Tensor, "*rows k"], shares: Tensor | float, p: float) -> Float[Tensor, "*rows"]:
    """Return (sum_k shares_k |values_k|^p)^(1/p), without overflow and underflow."""
    if p == 1:
        return _summed(values.abs(), shares)
    if p == 2:
        total = _summed_squares(values, shares)
        limits = torch.finfo(values.dtype)
        safe = (total > limits.tiny / limits.eps**2) & (total < limits.max)
        if bool(safe.all()):
            return total.sqrt()
    largest = values.abs().amax(-1, keepdim=True)
    scaled = values.abs() / largest.where(largest > 0, 1.0)
    return largest[..., 0] * _summed(scaled.pow(p), shares).pow(1 / p)


def _summed(values: Tensor, shares: Tensor | float) -> Tensor:
    return (values * shares).sum(-1) if isinstance(shares, Tensor) else values.sum(-1) * shares


def _summed_squares(values: Tensor, shares: Tensor | float) -> Tensor:
    if isinstance(shares, Tensor):
        return _summed(values.square(), shares)
    return torch.linalg.vector_norm(values, dim=-1).square() * shares


def cells_between(corners: Corners) -> Cells:
    """Return the staircase between cumulative masses; of equal corners that of x comes first."""
    inner = torch.cat([2 * corners.x[..., :-1], 2 * corners.y[..., :-1] + 1], -1)
    return cells_of(inner, corners.whole)


def cells_of(keys: Int[Tensor, "rows k"], whole: int) -> Cells:
    """Return cells from the corners between them: twice a mass, and one more where the next atom is of y."""
    keys = sort_rows(keys)
    of_y, at = keys & 1, keys >> 1
    zero = at.new_zeros(len(at), 1)
    edges = torch.cat([zero, at, zero + whole], -1)
    j = torch.cat([zero, of_y.cumsum(-1)], -1)
    i = torch.arange(j.shape[-1], device=j.device) - j
    return Cells(i, j, edges.diff(dim=-1).double() / whole)


def _equal_corners(x: Tensor, y: Tensor) -> Corners:
    n, m = x.shape[-1], y.shape[-1]
    first, second = (torch.arange(1, count + 1, device=x.device)[None] for count in (n, m))
    return Corners(first * m, second * n, n * m)


def _corners(masses: tuple[Tensor, Tensor], x_order: Tensor | None, y_order: Tensor | None) -> Corners:
    sides = []
    for mass, order in zip(masses, (x_order, y_order), strict=True):
        assert order is not None
        corners = mass.expand(order.shape).gather(-1, order).cumsum(-1).clamp_(max=WHOLE)
        corners[..., -1] = WHOLE
        sides.append(corners)
    return Corners(sides[0], sides[1], WHOLE)


def _of_equal_atoms(differences: Tensor, p: float, wanted: Wanted) -> tuple[Tensor, Slopes]:
    """Return distances and derivatives where the k-th atom of x goes to the k-th of y."""
    share = 1 / differences.shape[-1]
    found = powered_mean(differences, share, p)
    if not (wanted.x or wanted.y):
        return found, Slopes()
    slope = _slope(differences, found, p).mul_(share)
    return found, Slopes(slope if wanted.x else None, -slope if wanted.y else None)


def _slope(differences: Float[Tensor, "rows k"], found: Float[Tensor, "rows"], p: float) -> Tensor:
    """Return (|differences|/found)^(p - 1) with the sign of the differences; zero where found is zero."""
    relative = differences / found.where(found > 0, torch.inf)[:, None]
    if p == 2:
        return relative
    if p == 1:
        return relative.sign()
    return relative.abs().pow(p - 1).copysign(relative)


def _of_cells(matched: Matched, x: Tensor, y: Tensor, p: float, wanted: Wanted) -> tuple[Tensor, Slopes]:
    """Return distances and derivatives of plans."""
    differences, mass = matched.cells.between(x, y), matched.cells.mass.to(x)
    found = powered_mean(differences, mass, p)
    in_x = in_y = in_a = in_b = None
    if wanted.x or wanted.y:
        slope = _slope(differences, found, p) * mass
        i, j = (index.expand(slope.shape) for index in matched.cells[:2])
        in_x = torch.zeros_like(x).scatter_add_(-1, i, slope) if wanted.x else None
        in_y = torch.zeros_like(y).scatter_add_(-1, j, -slope) if wanted.y else None
    if wanted.a or wanted.b:
        in_a, in_b = _potentials(matched, x, y, found, p)
    return found, Slopes(in_x, in_y, in_a, in_b)


def _potentials(matched: Matched, x: Tensor, y: Tensor, found: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return dual potentials of W_p on sorted atoms, up to constants, tight where there is no mass, too."""
    plans = [matched.cells] if matched.other is None else [matched.cells, matched.other]
    start = None if matched.cells.order is None else matched.cells.order[:, :1]
    costs, along = [], []
    for cells in plans:
        differences = cells.between(x, y)
        costs.append(differences * _slope(differences, found, p) / p)
        along.append(_along(cells, costs[-1], start, y))
    g = along[0] if matched.share is None else torch.lerp(along[1], along[0], matched.share)
    f = _tight(x, [(cells.i, cost - _taken(g, cells.j)) for cells, cost in zip(plans, costs, strict=True)])
    return f, _tight(y, [(cells.j, cost - _taken(f, cells.i)) for cells, cost in zip(plans, costs, strict=True)])


def _along(cells: Cells, costs: Tensor, start: Tensor | None, y: Tensor) -> Float[Tensor, "rows m"]:
    """Return the potential of y along a staircase: the sum of what the costs rise where y goes on.

    On a circle it need not be periodic: it is that of the turn of `start`, atoms of the next one are brought back.
    """
    sums = pad(costs.diff(dim=-1).where(cells.i.diff(dim=-1) == 0, 0.0).cumsum(-1), (1, 0))
    if cells.order is not None and start is not None:
        begun = cells.order >= start + y.shape[-1]
        sums = sums - sums[:, -1:] * begun
    return torch.zeros_like(y).scatter_(-1, cells.j.expand(sums.shape), sums)


def _tight(like: Tensor, rooms: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the least room that the cells of each atom leave."""
    indices = torch.cat([index.expand(room.shape) for index, room in rooms], -1)
    room = torch.cat([room for _, room in rooms], -1)
    return torch.zeros_like(like).scatter_reduce_(-1, indices, room, "amin", include_self=False)


def _taken(values: Shaped[Tensor, "rows n"], index: Int[Tensor, "r k"]) -> Shaped[Tensor, "rows k"]:
    return values[:, index[0]] if len(index) == 1 else values.gather(-1, index)


def _unsorted(values: Tensor | None, order: Tensor | None) -> Tensor | None:
    if values is None or order is None:
        return None
    return torch.empty_like(values).scatter_(-1, order, values)
