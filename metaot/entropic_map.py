"""The map of entropic transport, at any point: what the plan says of points that are no atoms."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.geometry import Geometry
from metaot.geometry.base import Eps
from metaot.geometry.checks import require_finite, tensor
from metaot.potentials import DualPotentials, PotentialsLike, as_potentials, log_weights
from metaot.problem import Problem, require_problem


@final
@dataclass(frozen=True, init=False)
class EntropicMap:
    """The barycentric projection of the plan, at any point x (Pooladian and Niles-Weed, arXiv 2109.12004).

    A point sees the target's atoms with the weights b_j exp((g_j - c(x, y_j))/eps), and is sent to their mean: for
    squared and other distances the mean of vectors; on the sphere and for "cosine" that of directions; for
    `LpPower` by the conjugate of the cost; for a cost of one's own, the point with the least mean cost. On the
    source's atoms it is `solution.transport()`.

    `potentials` are those of a solution or of a prediction; of `push` only g counts, of `pull` only f. Raises
    ValueError for a problem whose atoms have no coordinates.
    """

    problem: Problem
    potentials: DualPotentials

    def __init__(self, problem: Problem, potentials: PotentialsLike) -> None:
        found = as_potentials(require_problem(problem), potentials)
        if problem.geometry.points is None:
            raise ValueError(f"{problem.geometry} has no coordinates: it has no map, only `transport(values)`")
        vars(self).update(problem=problem, potentials=found)

    @torch.no_grad()
    def push(self, x: ArrayLike) -> Float[Tensor, "*batch k d"]:
        """Send points, k d or *batch k d, from the source's space to the target's."""
        return _pushed(self.problem, self.potentials.g, x)

    @torch.no_grad()
    def pull(self, y: ArrayLike) -> Float[Tensor, "*batch k d"]:
        """Send points, k d or *batch k d, from the target's space to the source's: the map of `problem.T`."""
        return _pushed(self.problem.T, self.potentials.f, y)

    def __repr__(self) -> str:
        return f"EntropicMap of {self.problem}"


def projected(problem: Problem, g: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n d"]:
    """Return where the source's atoms are sent."""
    assert problem.geometry.points is not None
    return _projected(problem.geometry, problem.geometry.points[0], log_weights(problem.T, g), problem.eps)


def _pushed(problem: Problem, g: Tensor, x: ArrayLike) -> Tensor:
    geometry = problem.geometry
    assert geometry.points is not None
    like, dim = problem.a, geometry.points[1].shape[-1]
    points = tensor("points", x, like=like, taken="points (a tensor, an array or a list), k d").to(like)
    require_finite("points", points)
    if points.ndim < 2 or points.shape[-1] != dim:
        raise ValueError(f"points must have the shape (k, {dim}) or (*batch, k, {dim}), got {tuple(points.shape)}")
    if points.ndim == 2:
        points = points.expand(*geometry.batch_shape, *points.shape[-2:])
    space = geometry.seen_from(points)
    if space is None:
        raise ValueError(f"{geometry} has costs of its atoms only: a map of others needs its `seen_from`")
    return _projected(space, points, log_weights(problem.T, g.to(like)), problem.eps)


def _projected(
    geometry: Geometry, x: Float[Tensor, "*#batch k d"], h: Float[Tensor, "*batch m"], eps: Eps
) -> Float[Tensor, "*batch k d"]:
    """Send the source of a geometry, points x, to the target's with weights exp((h_j - C_ij)/eps)."""
    assert geometry.points is not None
    y = geometry.points[1].detach().to(h)
    send = geometry.projection
    if send is None:
        return geometry.mean(h, y, eps)
    blocks, start = [], 0
    for z in geometry.exponents(h, eps):
        part = x[..., start : start + z.shape[-2], :].detach().to(h)
        blocks.append(send(z.softmax(-1), part, y))
        start += z.shape[-2]
    return torch.cat(blocks, -2)
