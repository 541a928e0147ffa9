"""Where a point is sent whose mass is spread over several atoms: their mean, as the cost understands it.

For the squared distance it is the mean. On the sphere, and for directions, it is the mean that lies there. For
other costs it is where the map of Gangbo and McCann sends it for the potential f of the plan, the z with
grad_x c(x, z) = grad f(x); for powers of distances in closed form (Cuturi, Klein and Ablin, arXiv 2302.04065).
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from metaot.geometry.base import Projection
from metaot.geometry.costs import Cost, LpPower

_MOST_STEPS, _STILL = 50, 1e-12
"""Steps to a mean, and the length of a step that counts as none."""

_AT_ONCE = 128
"""Points that are sent at once by their slopes: a cost is asked for all pairs of them."""

_DAMPING = 1e-3
"""Of the first Newton step, relative to the largest square of a derivative."""


def projection_of(cost: str | Cost) -> Projection | None:
    """Return how points are sent to atoms with weights; None where it is to their mean."""
    if isinstance(cost, str):
        return {"sphere": _mean_on_sphere, "cosine": _mean_direction}.get(cost)
    return partial(_by_conjugate, cost.p) if isinstance(cost, LpPower) else partial(_by_slope, cost)


def _mean_direction(
    w: Float[Tensor, "*batch k m"], x: Float[Tensor, "*#batch k d"], y: Float[Tensor, "*#batch m d"]
) -> Float[Tensor, "*batch k d"]:
    """Return the direction of the mean of all directions, and the mean length."""
    return normalize(w @ normalize(y, dim=-1), dim=-1) * (w @ y.norm(dim=-1, keepdim=True))


def _mean_on_sphere(
    w: Float[Tensor, "*batch k m"], x: Float[Tensor, "*#batch k d"], y: Float[Tensor, "*#batch m d"]
) -> Float[Tensor, "*batch k d"]:
    """Return the unit vectors of the least mean squared angle (Karcher), from the direction of the mean."""
    z = normalize(w @ y, dim=-1)
    for _ in range(_MOST_STEPS):
        cosine = (z @ y.mT).clamp(-1, 1)
        stretch = w * (cosine.acos() / (1 - cosine.square()).clamp_min(1e-30).sqrt()).clamp(1.0, 1e8)
        step = stretch @ y - (stretch * cosine).sum(-1, keepdim=True) * z
        length = step.norm(dim=-1, keepdim=True)
        z = normalize(length.cos() * z + torch.sinc(length / torch.pi) * step, dim=-1)
        if float(length.max()) <= _STILL:
            break
    return z


def _by_conjugate(
    p: float, w: Float[Tensor, "*batch k m"], x: Float[Tensor, "*#batch k d"], y: Float[Tensor, "*#batch m d"]
) -> Float[Tensor, "*batch k d"]:
    """Return x - s with h'(s) = sum_j w_j h'(x - y_j), for h = |.|^p on each axis."""
    if p == 1:
        raise ValueError("LpPower(1) has no map: its dual potentials do not say how far mass goes; take p > 1")
    gaps = [x[..., :, None, axis] - y[..., None, :, axis] for axis in range(x.shape[-1])]
    slopes = torch.stack([(w * gap.sign() * gap.abs().pow(p - 1)).sum(-1) for gap in gaps], -1)
    return x - slopes.sign() * slopes.abs().pow(1 / (p - 1))


def _by_slope(
    cost: Cost, w: Float[Tensor, "*batch k m"], x: Float[Tensor, "*#batch k d"], y: Float[Tensor, "*#batch m d"]
) -> Float[Tensor, "*batch k d"]:
    """Return the points z where the cost of x has the mean slope, grad_x c(x, z) = sum_j w_j grad_x c(x, y_j).

    By damped Newton steps (Levenberg, Marquardt) from the mean, each point for itself. Where a cost has no second
    derivatives that is where it stays. A cost sees one cloud where the batch shares it.
    """
    batch, x = w.shape[:-2], x.expand(*w.shape[:-2], *x.shape[-2:])
    if y.ndim == 2:
        w, x = w.flatten(0, -2), x.flatten(0, -2)
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (wanted,) = torch.autograd.grad((w * cost(at, y)).sum(), at)
    parts = (part.split(_AT_ONCE, -2) for part in (x, w @ y, wanted))
    found = torch.cat([_of_slope(cost, *part) for part in zip(*parts, strict=True)], -2)
    return found.reshape(*batch, -1, x.shape[-1])


def _of_slope(
    cost: Cost, x: Float[Tensor, "*batch k d"], z: Float[Tensor, "*batch k d"], wanted: Float[Tensor, "*batch k d"]
) -> Float[Tensor, "*batch k d"]:
    """Return the points, from z, where the cost of x has the slope that is wanted."""
    damping = x.new_full(x.shape[:-1], _DAMPING)
    off, slopes = _slopes(cost, x, z, wanted)
    for _ in range(_MOST_STEPS):
        normal = slopes.mT @ slopes
        scale = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(1e-300)
        normal = normal + (damping * scale)[..., None, None] * torch.eye(x.shape[-1]).to(x)
        step = torch.linalg.solve(normal, slopes.mT @ off[..., None])[..., 0]
        off_there, slopes_there = _slopes(cost, x, z - step, wanted)
        better = (off_there.norm(dim=-1) <= off.norm(dim=-1)) & slopes_there.isfinite().all((-2, -1))
        z = torch.where(better[..., None], z - step, z)
        off = torch.where(better[..., None], off_there, off)
        slopes = torch.where(better[..., None, None], slopes_there, slopes)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-15, 1e15)
        if not bool((better & (step.norm(dim=-1) > _STILL * (1 + z.norm(dim=-1)))).any()):
            break
    return z


def _slopes(
    cost: Cost, x: Float[Tensor, "*batch k d"], z: Float[Tensor, "*batch k d"], wanted: Float[Tensor, "*batch k d"]
) -> tuple[Float[Tensor, "*batch k d"], Float[Tensor, "*batch k d d"]]:
    """Return grad_x c(x, z) less what is wanted of it, and its derivatives in z, of each x and its own z."""
    with torch.enable_grad():
        x, z = x.detach().requires_grad_(), z.detach().requires_grad_()
        value = cost(x, z).diagonal(dim1=-2, dim2=-1).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        rows = (
            torch.autograd.grad(part.sum(), z, retain_graph=True, allow_unused=True)[0]
            if part.requires_grad
            else None
            for part in slope.unbind(-1)
        )
        derivatives = torch.stack([torch.zeros_like(z) if row is None else row for row in rows], -2)
    return slope.detach() - wanted, derivatives
