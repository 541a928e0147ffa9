"""Assignments between large clouds, without their matrix of costs: metaot/core/src/pairs.c.

The entropic solution at a low eps, found coarse to fine, has prices from which most points get their best partner
at once. The other points share the partners that are left, which costs little. Where that is too much, an auction
goes on from the same prices, and for an eps near zero shortest paths.
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

_SPACINGS, _IN_SPACE, _TOL = 80.0, 5.0, 2e-2
"""The eps of the entropic solution, in units of spread n^(-2/d), near the squared distance of neighbours: in up to
two dimensions, and in more of them; the error of its marginals."""

_LEAST_ENTROPY, _MOST_ENTROPY = 1e-3, 0.1
"""The least and the largest eps, in units of the spread."""

_PHASES = 1e-3, 1e-4
"""Auctions, in units of the spread; for an eps below the last one the exact assignment is found."""

_ROUNDING = 1e-8
"""The least spread, in units of the costs, as in `metaot.solvers.assignment`."""

_SAMPLE = 64, 2048
"""Rows and columns that the spread of the costs is taken from."""


@final
class CloudAssigned(NamedTuple):
    """The column of each row, the mean cost, a lower bound of all such costs, and prices that prove it."""

    columns: Int[Tensor, "n"]
    cost: float
    lower: float
    prices: Float[Tensor, "n"]


def some_costs(geometry: Points) -> Float[Tensor, "r k"]:
    """Return some rows and columns of the costs between points, from which `spread` is near that of all."""
    x, y = (z[:: max(1, len(z) // most)] for z, most in zip(geometry.points, _SAMPLE, strict=True))
    return Points(x, y, geometry.cost).cost_rows(slice(None))


def assigned_clouds(geometry: Points, eps: float) -> CloudAssigned:
    """Assign points to as many points, in float64 on a CPU: the mean cost is within eps of the least one.

    The cost is one that the core knows.
    """
    n, name, some = geometry.shape[0], geometry.cost_name, some_costs(geometry)
    assert name is not None
    scale = max(spread(some), _ROUNDING * float(some.abs().amax())) or 1.0
    x, y = geometry.points
    prices = _first_prices(geometry, scale)
    last = min(max(eps, _PHASES[-1] * scale), _PHASES[0] * scale)
    phases = np.array([*(phase * scale for phase in _PHASES if phase * scale > last), last])
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
    part = (_SPACINGS if dim <= 2 else _IN_SPACE) * n ** (-2 / dim)
    eps = min(max(part, _LEAST_ENTROPY), _MOST_ENTROPY) * scale
    g = solve(Problem(weights, weights, geometry, eps), tol=_TOL).potentials.g
    return np.array(-g.nan_to_num(0.0, 0.0, 0.0).numpy())
