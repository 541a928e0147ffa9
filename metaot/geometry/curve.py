"""A plan between two clouds along a curve that fills the space, without any n x m matrix.

Points near each other are mostly near each other on the curve too (Morton's Z-order), so that mass
which is matched in the order of the curve, as between measures on a line, does not go far.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_AXES, _BITS = 8, 62
"""The most axes, those along which points are spread the most, that a place on the curve tells; all its bits."""


def plan_along_curve(
    x: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch m d"],
    a: Float[Tensor, "*batch n"],
    b: Float[Tensor, "*batch m"],
) -> tuple[Int[Tensor, "*batch k"], Int[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    """Return source atoms, target atoms and the masses between them, k = n + m: a plan with marginals a and b.

    Both sides have the same mass; b is scaled to that of a.
    """
    i, j = (order.expand(weights.shape) for order, weights in zip(_orders(x, y), (a, b), strict=True))
    source, target = a.gather(-1, i).cumsum(-1), b.gather(-1, j).cumsum(-1)
    whole = target[..., -1:]
    target = target * (source[..., -1:] / torch.where(whole > 0, whole, 1.0))
    ends = torch.cat([source, target], -1).sort(-1).values
    masses = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    middle = ends - masses / 2
    at, to = (
        order.gather(-1, torch.searchsorted(sums, middle).clamp_max(sums.shape[-1] - 1))
        for order, sums in ((i, source), (j, target))
    )
    return at, to, masses


def _orders(x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]) -> list[Int[Tensor, "*batch _"]]:
    """Return the points of both clouds in the order of one curve."""
    both = [z.detach().double().flatten(0, -2) for z in (x, y)]
    low = torch.minimum(*(z.amin(0) for z in both))
    extent = torch.maximum(*(z.amax(0) for z in both)) - low
    axes = extent.topk(min(len(extent), _AXES)).indices
    bits = min(16, _BITS // len(axes))
    cells = (2**bits - 1) / extent.max().clamp_min(torch.finfo(extent.dtype).tiny)
    return [_places(((z.detach().double() - low) * cells)[..., axes].long(), bits).argsort(-1) for z in (x, y)]


def _places(cells: Int[Tensor, "*batch n k"], bits: int) -> Int[Tensor, "*batch n"]:
    """Return where cells are on the curve: the bits of their numbers along all axes in turn, the highest first."""
    place = torch.zeros_like(cells[..., 0])
    for bit in range(bits - 1, -1, -1):
        for axis in cells.unbind(-1):
            place = 2 * place + ((axis >> bit) & 1)
    return place
