"""Many positive definite systems of a few unknowns: calls of LAPACK cost more than the arithmetic."""

import torch
from jaxtyping import Float
from torch import Tensor

UNROLLED = 8
"""The most unknowns for which the loops of the factorisation are unrolled."""


def solve_positive(H: Float[Tensor, "*batch d d"], r: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return H^-1 r by Cholesky's factorisation L D L^T; H must be positive definite."""
    d = r.shape[-1]
    if d > UNROLLED:
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
