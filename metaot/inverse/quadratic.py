"""Quadratic losses of linear parameters, and their minimum with a ridge or a penalty.

Every feature is brought to the same scale first, so that a ridge means the same for all. Where none is given, it
is chosen by leaving out one part after another: parts have errors of their own, their points do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.inverse.penalties import Penalty
from metaot.inverse.proximal import quadratic_minimum

_RANK = 1e-13
"""Directions in which the scaled matrix is smaller than this, relative to its largest, are not known."""

_RIDGES = -13, 1, 43
"""The decimal logarithms of the least and the largest ridge that are compared, and how many are."""

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
    """The loss theta^T H theta / 2 - h^T theta + constant / 2, and the losses that it is the mean of, if it is."""

    H: Float[Tensor, "p p"]
    h: Float[Tensor, "p"]
    constant: Float[Tensor, ""]
    parts: "tuple[Quadratic, ...]" = ()

    @classmethod
    def mean(cls, parts: "Sequence[Quadratic]") -> "Quadratic":
        """Return the mean of losses."""
        fields = zip(*((part.H, part.h, part.constant) for part in parts), strict=True)
        H, h, constant = (torch.stack(each).mean(0) for each in fields)
        return cls(H, h, constant, tuple(parts))

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
        loss = self if amount == 0 else Quadratic(self.H + amount * scale.diag(), self.h, self.constant)
        theta, residual = loss._penalised(penalty, shape, start)
        return Minimum(theta, residual, amount)

    def _free(self, ridge: float | None) -> Minimum:
        unit = self.H.diagonal().clamp_min(torch.finfo(self.H.dtype).tiny).rsqrt()
        values, vectors, along = self._axes(unit)
        amount = self._best_ridge(unit) if ridge is None else ridge
        theta = unit * (vectors @ _shrunk(values, along, amount))
        slope = self.H @ theta - self.h + amount * theta / unit.square()
        size = float((unit * self.h).abs().max())
        return Minimum(theta, float((unit * slope).abs().max()) / (size or 1.0), amount)

    def _axes(self, unit: Float[Tensor, "p"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return eigenvalues and vectors of H between features of that scale, and h along them, where known."""
        values, vectors = torch.linalg.eigh(unit[:, None] * self.H * unit)
        along = vectors.mT @ (unit * self.h)
        known = values > _RANK * values[-1]
        return torch.where(known, values, 0.0), vectors, torch.where(known, along, 0.0)

    def _best_ridge(self, unit: Float[Tensor, "p"]) -> float:
        """Return the ridge with the least loss on parts that are left out; the least one if there is one part."""
        ridges = torch.logspace(*_RIDGES, dtype=unit.dtype, device=unit.device)
        if len(self.parts) < 2:
            return float(ridges[0])
        score = torch.zeros_like(ridges)
        for k, part in enumerate(self.parts):
            rest = Quadratic.mean([*self.parts[:k], *self.parts[k + 1 :]])
            values, vectors, along = rest._axes(unit)
            theta = unit * (_shrunk(values, along, ridges[:, None]) @ vectors.mT)
            score += (theta * (0.5 * theta @ part.H - part.h)).sum(1) + 0.5 * part.constant
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


def _shrunk(values: Tensor, along: Tensor, ridge: Tensor | float) -> Tensor:
    """Return along / (values + ridge), zero where nothing is known."""
    total = values + ridge
    return torch.where(values > 0, along / total, 0.0)
