"""Assignments between large clouds, without their matrix of costs: metaot/core/src/pairs.c.

The entropic solution at a low eps, found coarse to fine, has prices from which most points get their best partner at
once. The other points share the partners that are left, which costs little; where that is too much, an auction goes
on from the same prices, and for an eps near zero shortest paths.
"""

from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.geometry import Points
from metaot.problem import Problem
from metaot.solvers.assignment import spread
from metaot.solvers.solve import solve

_SPACINGS, _MOST_ENTROPY, _TOL = 80.0, 1e-2, 1e-2
"""The eps of the entropic solution: in units of spread n^(-2/d), which is near the squared distance of neighbours;
its largest part of the spread; the error of its marginals."""

_PHASES = 1e-3, 1e-4
"""Auctions, in units of the spread; for an eps below the last one the exact assignment is found."""

_SAMPLE = 64
"""Rows that the spread of the costs is taken from."""


@final
class CloudAssigned(NamedTuple):
    """The column of each row, the mean cost, a lower bound of that of all assignments, and the prices that prove it."""

    columns: Int[Tensor, "n"]
    cost: float
    lower: float
    prices: Float[Tensor, "n"]


def spread_between(geometry: Points) -> float:
    """Return `spread` of the costs between points, from some of the rows."""
    n = geometry.shape[0]
    return spread(geometry.cost_rows(torch.arange(0, n, max(1, n // _SAMPLE))))


def assigned_clouds(geometry: Points, eps: float, scale: float) -> CloudAssigned:
    """Assign points to as many points, on a CPU: the mean cost is within eps of the least one.

    The cost is one that the core knows; `scale` is the spread of the costs.
    """
    (n, _), name = geometry.shape, geometry.cost_name
    assert name is not None
    x, y = (cloud.detach().double() for cloud in geometry.points)
    prices = _first_prices(Points(x, y, name), scale)
    phases = scale * np.array([phase for phase in _PHASES if scale * phase >= eps] or [max(eps, 0.0) / scale])
    exact = eps < _PHASES[-1] * scale

    def assign(*, quick: bool) -> CloudAssigned:
        found, cost, lower = core.assign_points(
            x.numpy(), y.numpy(), name, phases, prices, exact=exact and not quick, quick=quick
        )
        return CloudAssigned(torch.from_numpy(found), cost / n, lower / n, torch.from_numpy(prices))

    if not exact:
        found = assign(quick=True)
        if found.cost - found.lower <= eps:
            return found
    return assign(quick=False)


def _first_prices(geometry: Points, scale: float) -> np.ndarray:
    """Return prices of y near those of the best assignment: the potential of the entropic solution, negated."""
    n, dim = len(geometry.x), geometry.x.shape[-1]
    weights = geometry.x.new_full((n,), 1 / n)
    eps = scale * min(_SPACINGS * n ** (-2 / dim), _MOST_ENTROPY)
    g = solve(Problem(weights, weights, geometry, eps), tol=_TOL).potentials.g
    return np.array(-g.nan_to_num(0.0, 0.0, 0.0).numpy())
