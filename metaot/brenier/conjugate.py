r"""The convex conjugate, exactly: $\bar\phi(y) = \max_x \langle x, y \rangle - \phi(x)$, for many y at once.

Newton's method with backtracking (Amos, arXiv 2210.12153, compares solvers for this). The network's quadratic term
makes the problem strongly concave: the method converges from any start.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.brenier.icnn import Icnn
from metaot.brenier.potential import BrenierPotential

_HALVINGS = 12
_UNROLLED = 8
"""The most unknowns of a linear system for which the loops of the factorisation are unrolled."""


@final
@dataclass(frozen=True)
class Conjugate:
    """The maximisers x and the values at each y.

    `error` is |grad phi(x) - y|, in units of the frame (one is a standard deviation); `steps` counts Newton steps,
    the same for all y.
    """

    x: Float[Tensor, "*batch k d"]
    value: Float[Tensor, "*batch k"]
    error: Float[Tensor, "*batch k"]
    converged: Bool[Tensor, "*batch k"]
    steps: int


@torch.no_grad()
def conjugate(
    phi: BrenierPotential,
    y: Float[Tensor, "*batch k d"],
    start: Float[Tensor, "*batch k d"] | None = None,
    *,
    tol: float = 1e-5,
    max_steps: int = 100,
) -> Conjugate:
    """Maximise <x, y> - phi(x) over x for each y, from `start` or from the inverse of the frame's linear map.

    It stops when every error is at most `tol`, or after `max_steps`. With an activation that has corners (leaky
    ReLU) an error may remain, if the maximum lies on a corner: the value is right, and y is in a gap of the map.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if start is not None and start.shape != y.shape:
        raise ValueError(f"start has the shape {tuple(start.shape)}, y {tuple(y.shape)}")
    frame, target = phi.frame, phi.frame.T.enter(y)
    u = target if start is None else frame.enter(start)
    best = maximised(phi.icnn, phi.weights, target, u, tol=tol, max_steps=max_steps)
    shift = ((y - frame.n[..., None, :]) * frame.m[..., None, :]).sum(-1)
    value = shift + frame.scale[..., None] * best.value
    return replace(best, x=frame.outside(best.x), value=value)


@torch.no_grad()
def maximised(
    icnn: Icnn,
    weights: Float[Tensor, "*batch count"],
    target: Float[Tensor, "*batch k d"],
    start: Float[Tensor, "*batch k d"],
    *,
    tol: float,
    max_steps: int = 100,
) -> Conjugate:
    """Maximise <u, target> - Phi(u) over u: `conjugate` in the coordinates of a frame."""

    def objective(point: Tensor) -> Tensor:
        return icnn.value(weights, point) - (point * target).sum(-1)

    u, steps = start, 0
    slope, H = icnn.gradient_and_hessian(weights, u)
    error = (slope - target).norm(dim=-1)
    while steps < max_steps and bool((error > tol).any()):
        u = _line_search(objective, u, slope - target, solve_positive(H, slope - target))
        slope, H = icnn.gradient_and_hessian(weights, u)
        error, steps = (slope - target).norm(dim=-1), steps + 1
    return Conjugate(u, -objective(u), error, error <= tol, steps)


def _line_search(objective: Callable[[Tensor], Tensor], u: Tensor, residual: Tensor, direction: Tensor) -> Tensor:
    """Return u minus a share of the direction: 1, halved until the objective falls enough."""
    before, decrease = objective(u), (residual * direction).sum(-1)
    share = torch.ones_like(before)
    slack = 10 * torch.finfo(u.dtype).eps * (1 + before.abs())
    for _ in range(_HALVINGS):
        after = objective(u - share[..., None] * direction)
        short = ~(after <= before - 1e-4 * share * decrease + slack)
        if not bool(short.any()):
            break
        share = torch.where(short, 0.5 * share, share)
    return u - share[..., None] * direction


def solve_positive(H: Float[Tensor, "*batch d d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return H^-1 r by Cholesky's factorisation L D L^T; H must be positive definite.

    The loops are unrolled for few unknowns, where calls of LAPACK cost more than the arithmetic.
    """
    d = r.shape[-1]
    if d > _UNROLLED:
        return torch.cholesky_solve(r[..., None], torch.linalg.cholesky(H))[..., 0]
    entries = H.movedim((-2, -1), (0, 1))
    L: list[list[Tensor]] = [[] for _ in range(d)]
    D: list[Tensor] = []
    x = list(r.unbind(-1))
    for i in range(d):
        for j in range(i):
            known = [L[i][k] * L[j][k] * D[k] for k in range(j)]
            L[i].append((entries[i][j] - sum(known)) / D[j])
        D.append(entries[i][i] - sum(L[i][k] * L[i][k] * D[k] for k in range(i)))
        x[i] = x[i] - sum(L[i][k] * x[k] for k in range(i))
    for i in reversed(range(d)):
        x[i] = x[i] / D[i] - sum(L[k][i] * x[k] for k in range(i + 1, d))
    return torch.stack(x, -1)
