"""Newton's direction by conjugate gradients: only products with the plan, for any number of unknowns.

Divided by sqrt(P 1) on both sides, minus the Hessian is I - S S^T with S = diag(P 1)^(-1/2) P diag(b)^(-1/2):
its eigenvalues are in [0, 1], most of them near one, and few iterations take care of the smooth directions.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.kernel import Kernel

_ITERATIONS = 300
"""Most iterations for a direction."""

_HALVINGS = 30
"""Most halvings of a step that does not raise J enough."""

_ENOUGH = 1e-4
"""Part of the first-order gain that a step must bring (Armijo)."""

_TESTED = 5
"""Iterations between two tests for convergence, each of which makes a GPU wait."""


def ascent(kernel: Kernel, a: Float[Tensor, "batch k"], b: Float[Tensor, "batch l"]) -> Float[Tensor, "batch k"]:
    """Return a change of f, in units of eps, that raises J: a truncated Newton direction, cut where it overshoots.

    The relative residual is at most the L1 error, and a tenth, so that the outer convergence is quadratic in the
    end (Dembo, Eisenstat and Steihaug 1982); but not below the rounding of the gradient, which directions of no
    curvature would amplify. A gradient that is rounding changes nothing.
    """
    source = kernel.times(torch.ones_like(b))
    gradient = a - source * (a.sum(-1) / source.sum(-1))[:, None]
    error, rounding = gradient.abs().sum(-1), 100 * torch.finfo(a.dtype).eps
    gradient = torch.where((error > rounding)[:, None], gradient, 0.0)
    accuracy = torch.maximum(error, rounding / error).clamp_max(0.1)
    direction = _solution(kernel, source, b, gradient, accuracy)
    return _shortened(kernel, a, b, direction, (direction * gradient).sum(-1))


def _solution(
    kernel: Kernel,
    source: Float[Tensor, "batch k"],
    b: Float[Tensor, "batch l"],
    gradient: Float[Tensor, "batch k"],
    accuracy: Float[Tensor, "batch"],
) -> Float[Tensor, "batch k"]:
    """Solve (diag(P 1) - P diag(1/b) P^T) d = gradient to a relative accuracy."""
    root = torch.where(source > 0, source, 1.0).sqrt()
    inverse = torch.where(b > 0, 1 / b, 0.0)

    def hessian(x: Tensor) -> Tensor:
        return x - kernel.times(inverse * kernel.T.times(x / root)) / root

    residual = gradient / root
    x, p = torch.zeros_like(residual), residual
    square = residual.square().sum(-1, keepdim=True)
    enough = square * accuracy.square()[:, None]
    for count in range(_ITERATIONS):
        if count % _TESTED == 0 and not bool((square > enough).any()):
            break
        Hp = hessian(p)
        curvature = (p * Hp).sum(-1, keepdim=True)
        going = (square > enough) & (curvature > 0)
        step = torch.where(going, square / torch.where(going, curvature, 1.0), 0.0)
        x, residual = x + step * p, residual - step * Hp
        previous, square = square, residual.square().sum(-1, keepdim=True)
        p = residual + torch.where(going, square / previous, 0.0) * p
        square = torch.where(going, square, 0.0)
    return x / root


def _shortened(
    kernel: Kernel,
    a: Float[Tensor, "batch k"],
    b: Float[Tensor, "batch l"],
    direction: Float[Tensor, "batch k"],
    slope: Float[Tensor, "batch"],
) -> Float[Tensor, "batch k"]:
    """Halve a direction until it raises J by enough; zero where it never does."""
    longest = math.log(torch.finfo(a.dtype).max) / 3.5
    shift = direction * (longest / direction.abs().amax(-1, keepdim=True).clamp_min(longest))
    slope = slope * torch.where(direction.abs().amax(-1) > longest, longest / direction.abs().amax(-1), 1.0)
    inverse = torch.where(b > 0, 1 / b, 0.0)
    length, rounding = torch.ones_like(slope), 10 * torch.finfo(a.dtype).eps
    short = torch.ones_like(slope, dtype=torch.bool)
    for _ in range(_HALVINGS):
        d = length[:, None] * shift
        growth = (kernel.T.times(d.expm1()) * inverse).clamp_min(-1 + torch.finfo(a.dtype).eps).log1p()
        gain = (a * d).sum(-1) - (b * growth).sum(-1)
        short = ~(gain >= _ENOUGH * length * slope - rounding)
        if not bool(short.any()):
            return d
        length = torch.where(short, 0.5 * length, length)
    return torch.where(short[:, None], 0.0, length[:, None] * shift)
