"""Newton's directions, cut to a length that raises J: by a factor of the Hessian, or by conjugate gradients.

Minus the Hessian, times eps, is diag(P 1) - P diag(1/b) P^T. Both methods divide it by sqrt(P 1) on both sides:
then its eigenvalues are in [0, 1], most of them near one. Changes of f are in units of eps.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.geometry.kernel import Kernel

_RIDGES = (1e-13, 1e-6, 1e-3)
"""Damping of the Hessian: a larger one where the direction does not raise J."""

_FARTHEST, _LENGTHS = 24.0, 12
"""The most that the first step tried changes a potential; how many steps are tried, each half of the last."""

_ENOUGH, _MUCH = 0.25, 0.75
"""Parts of the first-order gain: what a step must bring (Armijo), and what shows that a longer one may help."""

_ITERATIONS, _TESTED = 300, 5
"""Most iterations of conjugate gradients, and iterations between two tests, each of which makes a GPU wait."""

_HALVINGS, _LITTLE = 30, 1e-4
"""Most halvings of their direction, and the part of the first-order gain that it must bring."""


def by_factor(
    P: Float[Tensor, "batch k l"], a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]
) -> tuple[Float[Tensor, "batch k"], Bool[Tensor, "batch"]]:
    """Return a change of f, zero where none is found that raises J, and whether a longer one may raise it more.

    It is the first of more and more damped Newton directions that raises J by enough, almost always the undamped
    one. A very long direction shows a plan that nearly falls apart: there the masses of the parts hide all else,
    and damping lets the rest move.
    """
    source = P.sum(-1)
    root, scale, gradient = source.sqrt(), _scale(source), _gradient(source, a)
    half = P * (torch.where(b > 0, b, 1.0).rsqrt()[:, None, :] / scale[:, :, None])
    H = root[:, :, None] * root[:, None, :] - half @ half.mT
    H.diagonal(dim1=-2, dim2=-1).add_(1)  # the one null vector, the constants', has the eigenvalue one
    shift, goes_on = torch.zeros_like(a), torch.zeros_like(a[:, 0], dtype=torch.bool)
    left = torch.arange(len(a), device=a.device)
    for ridge in _RIDGES:
        direction = _damped_direction(H[left], gradient[left] / scale[left], ridge) / scale[left]
        shift[left], goes_on[left] = _shortened(P[left], source[left], a[left], b[left], direction)
        left = left[~shift[left].any(-1)]
        if len(left) == 0:
            break
    return shift, goes_on


def _damped_direction(H: Tensor, gradient: Tensor, ridge: float) -> Float[Tensor, "batch k"]:
    """Return the damped Newton direction; zero where the Hessian has no Cholesky factor."""
    damped = H.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(damped)
    direction = torch.cholesky_solve(gradient[:, :, None], factor).squeeze(-1)
    good = (failed == 0) & direction.isfinite().all(-1)
    return torch.where(good[:, None], direction, 0.0)


def _shortened(P: Tensor, source: Tensor, a: Tensor, b: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
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
    length = lengths.gather(1, enough.int().argmax(-1, keepdim=True)) * enough.any(-1, keepdim=True)
    return length * direction, enough[:, 0] & (size > 1) & (gains[:, 0] > _MUCH * expected[:, 0])


def by_products(
    kernel: Kernel, a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]
) -> Float[Tensor, "batch k"]:
    """Return a change of f that raises J, from products with the plan alone: a truncated Newton direction.

    The relative residual is at most the L1 error, and a tenth, so that the outer convergence is quadratic in the
    end (Dembo, Eisenstat and Steihaug 1982); but not below the rounding of the gradient, which directions of no
    curvature would amplify. A gradient that is rounding changes nothing.
    """
    source = kernel.times(torch.ones_like(b))
    gradient = _gradient(source, a)
    error, rounding = gradient.abs().sum(-1), 100 * torch.finfo(a.dtype).eps
    gradient = torch.where((error > rounding)[:, None], gradient, 0.0)
    accuracy = torch.maximum(error, rounding / error).clamp_max(0.1)
    scale = _scale(source)
    direction = _conjugated(kernel, b, scale, gradient / scale, accuracy) / scale
    return _halved(kernel, a, b, direction, (direction * gradient).sum(-1))


def _conjugated(
    kernel: Kernel, b: Tensor, scale: Tensor, residual: Tensor, accuracy: Tensor
) -> Float[Tensor, "batch k"]:
    """Solve with the scaled Hessian to a relative accuracy, by conjugate gradients."""
    x, p, inverse = torch.zeros_like(residual), residual, torch.where(b > 0, 1 / b, 0.0)
    square = residual.square().sum(-1, keepdim=True)
    enough = square * accuracy.square()[:, None]
    for count in range(_ITERATIONS):
        if count % _TESTED == 0 and not bool((square > enough).any()):
            break
        Hp = p - kernel.times(inverse * kernel.T.times(p / scale)) / scale
        curvature = (p * Hp).sum(-1, keepdim=True)
        going = (square > enough) & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        x, residual = x + step * p, residual - step * Hp
        previous, square = square, residual.square().sum(-1, keepdim=True)
        p = residual + torch.where(going, square / previous, 0.0) * p
        square = torch.where(going, square, 0.0)
    return x


def _halved(kernel: Kernel, a: Tensor, b: Tensor, direction: Tensor, slope: Tensor) -> Float[Tensor, "batch k"]:
    """Halve a direction until it raises J by enough; zero where it never does."""
    tiny, inverse = torch.finfo(a.dtype).eps, torch.where(b > 0, 1 / b, 0.0)
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    cut = longest / direction.abs().amax(-1).clamp_min(longest)
    shift, slope = direction * cut[:, None], slope * cut
    length, short = torch.ones_like(slope), torch.ones_like(slope, dtype=torch.bool)
    for _ in range(_HALVINGS):
        d = length[:, None] * shift
        growth = (kernel.T.times(d.expm1()) * inverse).clamp_min(-1 + tiny).log1p()
        gain = (a * d).sum(-1) - (b * growth).sum(-1)
        short = ~(gain >= _LITTLE * length * slope - 10 * tiny)
        if not bool(short.any()):
            return d
        length = torch.where(short, 0.5 * length, length)
    return torch.where(short[:, None], 0.0, length[:, None] * shift)


def _scale(source: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Return sqrt(P 1), one without mass."""
    return torch.where(source > 0, source, 1.0).sqrt()


def _gradient(source: Float[Tensor, "batch k"], a: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Return a - P 1, for a plan scaled to the mass of a."""
    return a - source * (a.sum(-1) / source.sum(-1))[:, None]
