"""Newton's direction by a Cholesky factor of the Hessian, for some hundreds of unknowns; a batch at once."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian, whose eigenvalues are at most one when both sides are divided by sqrt(P 1)."""

_FARTHEST = 24.0
"""The most eps by which the first length that is tried changes a potential."""

_LENGTHS = 12
"""Lengths of a step that are tried: the first one, a half of it, a quarter, ..."""

_ENOUGH, _MUCH = 0.25, 0.75
"""Parts of the first-order gain: what a step must bring (Armijo), and what shows that more is to be had beyond."""


@final
@dataclass(frozen=True)
class Ascent:
    """A direction for each instance, how far to go, in units of eps, and whether it may pay to go on.

    The length is zero where no direction raises J.
    """

    direction: Float[Tensor, "batch k"]
    length: Float[Tensor, "batch"]
    goes_on: Bool[Tensor, "batch"]

    @property
    def shift(self) -> Float[Tensor, "batch k"]:
        """The change of f."""
        return self.length[:, None] * self.direction


def ascent(P: Float[Tensor, "batch k l"], a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]) -> Ascent:
    """Return the first one of more and more damped Newton directions that raises J as it should.

    Almost always the undamped one. A very long direction shows a plan that nearly falls apart: there the masses of
    the parts hide all else, and damping lets the rest move.
    """
    source = P.sum(-1)
    H = _hessian(P, source.sqrt(), b)
    length = torch.zeros_like(source[:, 0])
    found = Ascent(torch.zeros_like(a), length, length > 0)
    left = torch.arange(len(a), device=a.device)
    for ridge in _RIDGES:
        direction = _damped_direction(H[left], source[left], a[left], ridge)
        tried = _shortened(P[left], source[left], a[left], b[left], direction)
        found.direction[left], found.length[left], found.goes_on[left] = (
            tried.direction,
            tried.length,
            tried.goes_on,
        )
        left = left[tried.length == 0]
        if len(left) == 0:
            break
    return found


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


def _damped_direction(H: Tensor, source: Tensor, a: Tensor, ridge: float) -> Float[Tensor, "batch k"]:
    """Return the damped Newton direction; zero where the Hessian has no Cholesky factor."""
    scale = torch.where(source > 0, source, 1.0).sqrt()
    gradient = a - source * (a.sum(-1) / source.sum(-1))[:, None]
    damped = H.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(damped)
    direction = torch.cholesky_solve((gradient / scale)[:, :, None], factor).squeeze(-1) / scale
    good = (failed == 0) & direction.isfinite().all(-1)
    return torch.where(good[:, None], direction, 0.0)


def _shortened(P: Tensor, source: Tensor, a: Tensor, b: Tensor, direction: Float[Tensor, "batch k"]) -> Ascent:
    """Try the whole of a direction, a half, and so on, until J rises by enough.

    J(f + d) - J(f) = <d, a> - <log (P/b)^T e^d, b>, right to rounding of the gain itself when d is small.
    """
    size = direction.abs().amax(-1)
    halves = 0.5 ** torch.arange(_LENGTHS, dtype=a.dtype, device=a.device)
    lengths = (_FARTHEST / size.clamp_min(_FARTHEST))[:, None] * halves
    paths = lengths[:, None, :] * direction[:, :, None]
    weights = torch.where(b > 0, b, 1.0)[:, :, None]
    change = (P.mT @ paths.expm1()) / weights
    growth = torch.where(change.abs() < 0.5, change.log1p(), ((P.mT @ paths.exp()) / weights).log())
    growth = torch.where(b[:, :, None] > 0, growth, 0.0)
    gains = (a[:, None, :] @ paths - b[:, None, :] @ growth).squeeze(1)
    expected = lengths * ((a - source) * direction).sum(-1, keepdim=True)
    enough = (gains >= _ENOUGH * expected - 10 * torch.finfo(a.dtype).eps) & (size > 0)[:, None]
    length = lengths.gather(1, enough.int().argmax(-1, keepdim=True)).squeeze(1)
    goes_on = enough[:, 0] & (size > 1) & (gains[:, 0] > _MUCH * expected[:, 0])
    return Ascent(direction, torch.where(enough.any(-1), length, 0.0), goes_on)
