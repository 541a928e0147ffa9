"""Quadratic losses of linear parameters, and their minimum with a ridge or a penalty.

Every feature is brought to the same scale first, so that a ridge means the same for all. Where none is given, it
is chosen by generalised cross-validation (Golub, Heath and Wahba 1979).
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.inverse.penalties import Penalty
from metaot.inverse.proximal import quadratic_minimum

_RANK = 1e-13
"""Directions in which the scaled matrix is smaller than this, relative to its largest, are not known."""

_RIDGES = 57
"""How many amounts of the ridge are compared, from 1e-14 to 1, relative to the largest direction."""

_ROUNDS, _TOL = 20, 1e-10
"""How often proximal steps are followed by an exact solve, and the optimality that ends it."""


@final
class Minimum(NamedTuple):
    """Parameters, how far they are from optimal relative to the loss's own slope, and the ridge that was added."""

    theta: Float[Tensor, "p"]
    residual: float
    ridge: float


@final
@dataclass(frozen=True)
class Quadratic:
    """The loss theta^T H theta / 2 - h^T theta + constant / 2, from `rows` numbers that were observed."""

    H: Float[Tensor, "p p"]
    h: Float[Tensor, "p"]
    constant: Float[Tensor, ""]
    rows: int

    def value(self, theta: Float[Tensor, "p"]) -> Float[Tensor, ""]:
        """Return the loss."""
        return theta @ (0.5 * self.H @ theta - self.h) + 0.5 * self.constant

    def minimum(
        self, penalty: Penalty | None, shape: tuple[int, ...], ridge: float | None, start: Tensor | None = None
    ) -> Minimum:
        """Return the best parameters; `ridge` None chooses it. `start` is where a penalised search begins."""
        if penalty is None:
            return self._free(ridge)
        scale = self.H.diagonal()
        amount = ridge or 0.0
        loss = self if amount == 0 else Quadratic(self.H + amount * scale.diag(), self.h, self.constant, self.rows)
        theta, residual = loss._penalised(penalty, shape, start)
        return Minimum(theta, residual, amount)

    def _free(self, ridge: float | None) -> Minimum:
        unit = self.H.diagonal().clamp_min(torch.finfo(self.H.dtype).tiny).rsqrt()
        values, vectors = torch.linalg.eigh(unit[:, None] * self.H * unit)
        along = vectors.mT @ (unit * self.h)
        known = values > _RANK * values[-1]
        values, along = torch.where(known, values, 0.0), torch.where(known, along, 0.0)
        amount = self._best_ridge(values, along) if ridge is None else ridge
        shrunk = values + amount
        theta = unit * (vectors @ torch.where(shrunk > 0, along / shrunk, 0.0))
        slope = self.H @ theta - self.h + amount * theta / unit.square()
        size = float((unit * self.h).abs().max())
        return Minimum(theta, float((unit * slope).abs().max()) / (size or 1.0), amount)

    def _best_ridge(self, values: Float[Tensor, "p"], along: Float[Tensor, "p"]) -> float:
        """Return the ridge with the least error on rows that are left out, as the traces estimate it."""
        ridges = torch.logspace(-14, 0, _RIDGES, dtype=values.dtype, device=values.device) * values[-1]
        shrunk = values + ridges[:, None]
        kept = (values / shrunk).sum(1)
        rest = self.constant - (along.square() * (values + 2 * ridges[:, None]) / shrunk.square()).sum(1)
        floor = torch.finfo(values.dtype).eps * self.constant
        score = rest.clamp_min(floor) / (1 - kept / max(self.rows, 1)).clamp_min(1e-6).square()
        return float(ridges[int(score.argmin())])

    def _penalised(self, penalty: Penalty, shape: tuple[int, ...], start: Tensor | None) -> tuple[Tensor, float]:
        """Minimise the loss and the penalty: proximal steps, and exact solves where the penalty is smooth."""
        theta = self.h.new_zeros(shape) if start is None else start.reshape(shape)
        size = max(float(self.h.abs().max()), penalty.lam)
        best = self._residual(penalty, theta)
        for _ in range(_ROUNDS):
            if best <= _TOL * size or not bool(self.H.any()):
                break
            theta = quadratic_minimum(self.H, self._slope(theta), theta, penalty, 0.1 * _TOL * size)
            best, exact = self._residual(penalty, theta), self._exact(penalty, theta)
            if (better := self._residual(penalty, exact)) < best:
                theta, best = exact, better
        return theta.flatten(), best / size

    def _slope(self, theta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self.H @ theta.flatten() - self.h).reshape(theta.shape)

    def _residual(self, penalty: Penalty, theta: Tensor) -> float:
        return penalty.residual(theta, self._slope(theta))

    def _exact(self, penalty: Penalty, theta: Tensor) -> Tensor:
        """Return the minimum on the tangent space at theta, with the penalty's slope there."""
        T = penalty.tangent(theta)
        if T.shape[1] == 0:
            return theta
        slope = T.mT @ (self.h - penalty.lam * penalty.sign(theta).flatten())
        return (T @ (torch.linalg.pinv(T.mT @ self.H @ T, hermitian=True) @ slope)).reshape(theta.shape)
