"""Sums of costs over clouds, without any n x m matrix: for costs that follow from moments of the clouds."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def squared_distances_times(
    x: Float[Tensor, "*#batch n d"], y: Float[Tensor, "*#batch m d"], v: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return C v for C = |x_i - y_j|^2: about the mean of y under |v|, around which the parts do not cancel."""
    size = v.abs().sum(-1, keepdim=True)
    centre = (v.abs() / torch.where(size > 0, size, 1.0))[..., None, :] @ y
    x, y = x - centre, y - centre
    squares = x.square().sum(-1) * v.sum(-1, keepdim=True) + (v * y.square().sum(-1)).sum(-1, keepdim=True)
    return squares + 2 * _products_times(x, y, v)


def _cosines_times(
    x: Float[Tensor, "*#batch n d"], y: Float[Tensor, "*#batch m d"], v: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    return squared_distances_times(normalize(x, dim=-1), normalize(y, dim=-1), v) / 2


def _products_times(
    x: Float[Tensor, "*#batch n d"], y: Float[Tensor, "*#batch m d"], v: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    """Return C v for C = -<x_i, y_j>."""
    return -(x @ (v[..., None, :] @ y).mT)[..., 0]


MOMENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sqeuclidean": squared_distances_times,
    "cosine": _cosines_times,
    "dot": _products_times,
}
"""C v of points x, y and v, for the costs for which it takes no matrix."""


def mean_and_variance(
    x: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch m d"],
    a: Float[Tensor, "*batch n"],
    b: Float[Tensor, "*batch m"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return mean and variance of |x_i - y_j|^2 under the plan a b^T.

    With both clouds centred, and d between their means, C = |d|^2 + (|x|^2 + 2 d x) + (|y|^2 - 2 d y) - 2 x y,
    whose four parts are not correlated.
    """
    near = x[..., :1, :]  # far from the origin, differences are exact and means are not
    (x, mean_x), (y, mean_y) = (_centred(w, (z - near).to(w)) for w, z in ((a, x), (b, y)))
    apart = mean_x - mean_y
    u = x.square().sum(-1) + 2 * (x @ apart[..., None])[..., 0]
    v = y.square().sum(-1) - 2 * (y @ apart[..., None])[..., 0]
    means = [(w * z).sum(-1, keepdim=True) for w, z in ((a, u), (b, v))]
    alone = [(w * (z - mean).square()).sum(-1) for w, z, mean in zip((a, b), (u, v), means, strict=True)]
    s, t = a.sqrt()[..., None] * x, b.sqrt()[..., None] * y
    n, m, d = x.shape[-2], y.shape[-2], x.shape[-1]
    is_small = (n + m) * d > n * m
    crossed = (s @ t.mT).square().sum((-2, -1)) if is_small else ((s.mT @ s) * (t.mT @ t)).sum((-2, -1))
    mean = (means[0] + means[1])[..., 0] + apart.square().sum(-1)
    return mean, alone[0] + alone[1] + 4 * crossed


def _centred(
    weights: Float[Tensor, "*batch n"], x: Float[Tensor, "*#batch n d"]
) -> tuple[Float[Tensor, "*batch n d"], Float[Tensor, "*batch d"]]:
    """Return points less their mean, and the mean."""
    mean = weights[..., None, :] @ x
    return x - mean, mean[..., 0, :]
