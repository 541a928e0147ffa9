"""Costs between point clouds: functions (x, y) -> C, batched, differentiable in both clouds.

And points on the Earth as a sphere: degrees to unit vectors and back, radians to kilometres.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from metaot.arrays import wrong
from metaot.geometry.checks import require_costs, tensor

Cost = Callable[[Float[Tensor, "*batch n d"], Float[Tensor, "*batch m d"]], Float[Tensor, "..."]]

KILOMETRES = 6371.0088
"""The mean radius of the Earth: an angle in radians times it is a length."""

_DIRECT_DIMENSION = 8
"""Up to this dimension differences are summed axis by axis, which loses no digits of small costs."""

_CANCELLED = {torch.float64: 2.0**-8}
"""A sum of squares and products below this part of the squares has lost too many digits by cancellation."""

_ALWAYS_CANCELLED = 2.0**-3
"""The same for other types, which have no digits to spare."""

_FEW = 1 / 32
"""Up to this part of the pairs are computed again one by one; more are computed all together."""


def squared_euclidean(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|^2, right to rounding: in float64 to thirteen digits, however close or far points are.

    In many dimensions from matrix products; where these cancel, from differences.
    """
    if x.shape[-1] <= _DIRECT_DIMENSION:
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for axis in range(x.shape[-1]):
            total = total + (x[..., :, None, axis] - y[..., None, :, axis]).square()
        return total
    centre = x.detach().mean(-2, keepdim=True)
    s, t = x - centre, y - centre
    squares = s.square().sum(-1)[..., :, None] + t.square().sum(-1)[..., None, :]
    total = squares - 2 * (s @ t.mT)
    lost = _CANCELLED.get(total.dtype, _ALWAYS_CANCELLED)
    pairs = (total.detach() < lost * squares.detach()).nonzero(as_tuple=True)
    if len(pairs[0]) == 0:
        return total
    if len(pairs[0]) > _FEW * total.numel():
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    *batch, i, j = pairs
    return total.index_put(pairs, (x[*batch, i] - y[*batch, j]).square().sum(-1))


def euclidean(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return |x_i - y_j|; the derivative at coinciding points is taken as zero."""
    return _safe_sqrt(squared_euclidean(x, y))


def great_circle(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return the angle between unit vectors in radians, accurate for close and for antipodal vectors.

    Kahan's form 2 atan2(|x - y|, |x + y|) of arccos(<x, y>).
    """
    return 2 * torch.atan2(_safe_sqrt(squared_euclidean(x, y)), _safe_sqrt(squared_euclidean(x, -y)))


def cosine(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n m"]:
    """Return one less the cosine of the angle between x_i and y_j, accurate for small angles; no point is zero."""
    return squared_euclidean(normalize(x, dim=-1), normalize(y, dim=-1)) / 2


def negative_product(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch n m"]:
    """Return -<x_i, y_j>, which leads to the plans of half the squared distance."""
    return -(x @ y.mT)


@final
@dataclass(frozen=True)
class LpPower:
    """The cost sum_k |x_k - y_k|^p between points, for a p of at least one."""

    p: float

    def __post_init__(self) -> None:
        if not (isinstance(self.p, int | float) and 1 <= self.p < math.inf):
            raise ValueError(f"p must be a finite number of at least 1, got {self.p!r}")

    def __call__(
        self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
    ) -> Float[Tensor, "*batch n m"]:
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for axis in range(x.shape[-1]):
            total = total + (x[..., :, None, axis] - y[..., None, :, axis]).abs().pow(self.p)
        return total


def _safe_sqrt(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    positive = value > 0
    return torch.where(positive, torch.where(positive, value, 1.0).sqrt(), 0.0)


COSTS: dict[str, Cost] = {
    "sqeuclidean": squared_euclidean,
    "euclidean": euclidean,
    "sphere": great_circle,
    "cosine": cosine,
    "dot": negative_product,
}


def matrix_of_costs(name: str, values: object, x: Float[Tensor, "... d"], m: int) -> Float[Tensor, "..."]:
    """Return what a function of the user's made of some x and m points y; ValueError unless that is a matrix."""
    C = tensor(name, values, like=x, taken="a matrix of costs")
    expected = (*x.shape[:-1], m)
    if C.shape != expected:
        swapped = C.shape == (*x.shape[:-2], m, x.shape[-2])
        hint = "it is transposed: return .mT" if swapped else "a fixed matrix is Dense(C)"
        raise ValueError(
            f"{name} of {x.shape[-2]} points x and {m} points y must have one row for each x and one column for "
            f"each y, got {tuple(C.shape)} in place of {tuple(expected)}: {hint}"
        )
    C = C if isinstance(values, Tensor) and values.is_floating_point() else C.to(x)
    require_costs(name, C)
    return C


def wrong_cost(cost: object, known: Iterable[str], function: str) -> Exception:
    """Return the error for a cost that is neither a function nor a known name."""
    taken = f"one of {sorted(known)}, or {function}"
    if isinstance(cost, str):
        return ValueError(f"cost must be {taken}, got {cost!r}")
    return wrong("cost", taken, cost)


def name_of_cost(cost: object) -> str:
    """Return a cost as it is printed: its name, and of a function the name of that."""
    if isinstance(cost, str) or is_dataclass(cost):
        return repr(cost)
    return getattr(cost, "__name__", f"a {type(cost).__name__}")


def exchanged(cost: Cost) -> Cost:
    """Return a cost function with source and target exchanged; the original one after two exchanges."""
    if isinstance(cost, partial) and cost.func is _exchanged:
        return cost.args[0]
    return partial(_exchanged, cost)


def _exchanged(cost: Cost, y: Tensor, x: Tensor) -> Tensor:
    C = cost(x, y)
    return (C if isinstance(C, Tensor) else tensor("cost(x, y)", C, like=x)).mT


def unit_vectors(
    latitude: Float[Tensor, "*shape"], longitude: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape 3"]:
    """Return points of the unit sphere from degrees north and east."""
    latitude, longitude = torch.deg2rad(latitude), torch.deg2rad(longitude)
    ring = latitude.cos()
    return torch.stack([ring * longitude.cos(), ring * longitude.sin(), latitude.sin()], -1)


def degrees(x: Float[Tensor, "*shape 3"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return latitude and longitude in degrees north and east, the longitude in [-180, 180]."""
    latitude = torch.atan2(x[..., 2], x[..., :2].norm(dim=-1))
    return torch.rad2deg(latitude), torch.rad2deg(torch.atan2(x[..., 1], x[..., 0]))
