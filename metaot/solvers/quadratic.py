"""The quadratic model of the semi-dual near a point, by a factor of its Hessian.

The Hessian is divided by sqrt(P 1) on both sides.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.solvers.local import Local

FARTHEST = 24.0
"""The most that the first step tried changes a potential, in units of eps."""

_ROUNDS = 20
"""Most rounds in which the bounds are found that hold a direction."""


def highest_change(P: Tensor, source: Tensor, here: Local, ridge: float) -> Float[Tensor, "batch n"]:
    """Return the change of f with the highest value of the model, its Hessian damped; zero where none is found.

    P is the plan, and source the sums of its rows.
    """
    highest = _highest_smooth if here.are_smooth else _highest_bounded
    return highest(P, source, here, ridge)


def _highest_smooth(P: Tensor, source: Tensor, here: Local, ridge: float) -> Float[Tensor, "batch n"]:
    H, scale = semi_dual_hessian(P, source, here, ridge, anchored=True)
    return _solved(H, here.gradient(source) / scale) / scale


def semi_dual_hessian(
    P: Float[Tensor, "batch n m"], source: Float[Tensor, "batch n"], here: Local, ridge: float, *, anchored: bool
) -> tuple[Float[Tensor, "batch n n"], Float[Tensor, "batch n"]]:
    """Return minus the Hessian in f, divided by a scale on both sides, and the scale; of smooth marginals.

    If `anchored`, constants, which are the null vectors of balanced problems, get the eigenvalue one.
    """
    root, scale = source.sqrt(), scale_of(source)
    half = _half(P, here, scale, here.target.share)
    H = -(half @ half.mT)
    if anchored:
        H += root[:, :, None] * root[:, None, :]
    H.diagonal(dim1=-2, dim2=-1).add_(1 + ridge + here.source.stiffness * here.a / scale.square())
    return H, scale


def _highest_bounded(P: Tensor, source: Tensor, here: Local, ridge: float) -> Float[Tensor, "batch n"]:
    """Return a change of at most `FARTHEST`, where bounds hold potentials of either side.

    Which potentials the bounds hold is found by the primal-dual method (Hintermueller, Ito and Kunisch, SIAM J.
    Optim. 2003), in a few rounds: but for signs, the Hessian has no positive entry beside its diagonal.
    """
    scale, gradient = scale_of(source), here.gradient(source)
    stiff = 1 + ridge + here.source.stiffness * here.a / scale.square()
    low, high = (here.source.within(torch.full_like(scale, most)) for most in (-FARTHEST, FARTHEST))
    x, free = torch.zeros_like(scale), torch.ones_like(scale, dtype=torch.bool)
    Q = P / torch.where(here.b > 0, here.b, 1.0)[:, None, :]
    share, follows = here.target.passes(torch.zeros_like(here.b))
    for _ in range(_ROUNDS):
        half = _half(P, here, scale, share)
        H = -half @ half.mT
        H.diagonal(dim1=-2, dim2=-1).add_(stiff)
        slope = (gradient - (P @ follows[:, :, None]).squeeze(-1)) / scale
        fixed = torch.where(free, 0.0, x) * scale
        rest = torch.where(free, slope - (H @ fixed[:, :, None]).squeeze(-1), 0.0)
        both = free[:, :, None] & free[:, None, :]
        reduced = torch.where(both, H, 0.0)
        reduced.diagonal(dim1=-2, dim2=-1).add_((~free).to(H))
        x = _solved(reduced, rest) + fixed
        x = (x + torch.where(free, 0.0, slope - (H @ x[:, :, None]).squeeze(-1))) / scale
        now, x = (x <= high) & (x >= low), x.maximum(low).minimum(high)
        before = share
        share, follows = here.target.passes(-(Q.mT @ x[:, :, None]).squeeze(-1))
        if torch.equal(now, free) and torch.equal(share, before):
            break
        free = now
    return x


def _half(P: Tensor, here: Local, scale: Tensor, share: Tensor | float) -> Float[Tensor, "batch n m"]:
    """Return the factor of what the best g takes away from the Hessian, which is divided by the scale."""
    return P * ((inverse_of(here.b) * share).sqrt()[:, None, :] / scale[:, :, None])


def _solved(H: Float[Tensor, "batch n n"], slope: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return H^-1 slope; zero where H has no factor."""
    factor, failed = torch.linalg.cholesky_ex(H)
    x = torch.cholesky_solve(slope[:, :, None], factor).squeeze(-1)
    return torch.where(((failed == 0) & x.isfinite().all(-1))[:, None], x, 0.0)


def inverse_of(b: Float[Tensor, "batch m"]) -> Float[Tensor, "batch m"]:
    """Return 1/b, zero without mass."""
    return torch.where(b > torch.finfo(b.dtype).tiny, 1 / b, 0.0)


def scale_of(source: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return sqrt(P 1), one without mass."""
    return torch.where(source > 0, source, 1.0).sqrt()
