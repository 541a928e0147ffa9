"""Newton's direction by a Cholesky factor of the Hessian, for some hundreds of unknowns; a batch at once."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian, whose eigenvalues are at most one when both sides are divided by sqrt(P 1)."""

_FAR = 200.0
"""A direction that changes a potential by more than this many eps is compared with more damped ones."""

_LENGTHS = 12
"""Lengths of a step that are compared: the whole of it, a half, a quarter, ..."""


def ascent(
    P: Float[Tensor, "batch k l"], a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]
) -> Float[Tensor, "batch k"]:
    """Return the change of f, in units of eps, that raises J most, of more and more damped Newton directions.

    Almost always the undamped one alone. One that is very long shows a plan that nearly falls apart: there
    the masses of the parts hide all else, and damping lets the rest move.
    """
    root = P.sum(-1).sqrt()
    plans = _Plans(P, a, b, root, _hessian(P, root, b))
    shift, gain, size = _damped_ascent(plans, _RIDGES[0])
    for ridge in _RIDGES[1:]:
        long = (~((size > 0) & (size <= _FAR))).nonzero()[:, 0]
        if len(long) == 0:
            break
        other, more, size[long] = _damped_ascent(plans[long], ridge)
        better = more > gain[long]
        shift[long[better]], gain[long[better]] = other[better], more[better]
    return shift


@final
@dataclass(frozen=True)
class _Plans:
    """Plans, their marginals b and what should be a, sqrt(P 1), and the scaled Hessian."""

    P: Float[Tensor, "batch k l"]
    a: Float[Tensor, "batch k"]
    b: Float[Tensor, "batch l"]
    root: Float[Tensor, "batch k"]
    H: Float[Tensor, "batch k k"]

    def __getitem__(self, index: Tensor) -> "_Plans":
        return _Plans(self.P[index], self.a[index], self.b[index], self.root[index], self.H[index])


def _hessian(
    P: Float[Tensor, "batch k l"], root: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]
) -> Float[Tensor, "batch k k"]:
    """Return minus the Hessian, times eps, divided by root = sqrt(P 1) on both sides; the identity without mass.

    Its one null vector, the constants', is given the eigenvalue one.
    """
    half = P * (torch.where(b > 0, b, 1.0).rsqrt()[:, None, :] / torch.where(root > 0, root, 1.0)[:, :, None])
    H = root[:, :, None] * root[:, None, :] - half @ half.mT
    H.diagonal(dim1=-2, dim2=-1).add_(1)
    return H


def _damped_ascent(
    plans: _Plans, ridge: float
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Return the best part of the damped Newton direction, its gain, and the size of the whole of it.

    The direction is zero where the Hessian has no Cholesky factor.
    """
    a, root = plans.a, plans.root
    source = root.square()
    scale = torch.where(root > 0, root, 1.0)
    gradient = a - source * (a.sum(-1) / source.sum(-1))[:, None]
    damped = plans.H.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(damped)
    direction = torch.cholesky_solve((gradient / scale)[:, :, None], factor).squeeze(-1) / scale
    good = (failed == 0) & direction.isfinite().all(-1)
    direction = torch.where(good[:, None], direction, 0.0)
    shift, gain = _best_length(plans.P, a, plans.b, direction)
    return shift, gain, direction.abs().amax(-1)


def _best_length(
    P: Tensor, a: Tensor, b: Tensor, direction: Tensor
) -> tuple[Float[Tensor, "batch k"], Float[Tensor, "batch"]]:
    """Return the part of a direction that raises J most, and by how much, in units of eps.

    J(f + d) - J(f) = <d, a> - <log (P/b)^T e^d, b>, right to rounding of the gain itself when d is small.
    """
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    whole = (longest / direction.abs().amax(-1).clamp_min(longest))[:, None, None]
    halves = 0.5 ** torch.arange(_LENGTHS, dtype=a.dtype, device=a.device)
    paths = whole * halves * direction[:, :, None]
    weights = torch.where(b > 0, b, 1.0)[:, :, None]
    change = (P.mT @ paths.expm1()) / weights
    growth = torch.where(change.abs() < 0.5, change.log1p(), ((P.mT @ paths.exp()) / weights).log())
    growth = torch.where(b[:, :, None] > 0, growth, 0.0)
    gains = (a[:, None, :] @ paths - b[:, None, :] @ growth).squeeze(1)
    gains[:, 0] += 10 * torch.finfo(a.dtype).eps  # nothing but more than rounding speaks against the whole of it
    gain, best = gains.max(-1)
    shift = paths.gather(2, best[:, None, None].expand(-1, paths.shape[1], 1)).squeeze(2)
    return shift, gain
