"""Penalties of the parameters of a cost: `L1`, if few are not zero, and `Nuclear`, if the rank is low.

A penalty knows its value, its proximal map, how far a gradient is from optimal, and the tangent space on which it
is smooth: of `L1` the parameters that are not zero, of `Nuclear` the matrices with the same row or column space.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import as_positive

_ZERO = 1e-9
"""Singular values below this part of the largest one are rounding."""


@dataclass(frozen=True)
class Penalty(ABC):
    """A convex function of theta, `lam` times a norm."""

    lam: float
    words: ClassVar[tuple[str, str]] = ("support", "off the support")
    """What the certificate is of, and where its largest value is taken."""
    of_matrices: ClassVar[bool] = False
    """Whether theta must be a matrix."""

    @abstractmethod
    def value(self, theta: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
        """Return the penalty."""

    @abstractmethod
    def prox(self, theta: Float[Tensor, "*shape"], step: float) -> Float[Tensor, "*shape"]:
        """Return the argmin over t of |t - theta|^2 / 2 + step times the penalty of t."""

    @abstractmethod
    def residual(self, theta: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]) -> float:
        """Return how far minus the gradient of the loss is from the subgradients at theta, in the dual norm."""

    @abstractmethod
    def tangent(self, theta: Float[Tensor, "*shape"]) -> Float[Tensor, "unknowns free"]:
        """Return an orthonormal basis of the tangent space at theta, its vectors in columns."""

    @abstractmethod
    def sign(self, theta: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the gradient of the norm on the tangent space."""

    @abstractmethod
    def largest_off(self, theta: Float[Tensor, "*shape"], z: Float[Tensor, "*shape"]) -> float:
        """Return the dual norm of what z is off the tangent space at theta; zero where nothing is off it."""


@final
@dataclass(frozen=True, init=False)
class L1(Penalty):
    """`lam` times the sum of |theta_k|: few parameters are not zero. ValueError unless `lam` is positive."""

    def __init__(self, lam: float) -> None:
        object.__setattr__(self, "lam", as_positive("lam in metaot.inverse.L1(lam)", lam))

    def value(self, theta: Tensor) -> Tensor:
        return self.lam * theta.abs().sum()

    def prox(self, theta: Tensor, step: float) -> Tensor:
        return theta.sign() * (theta.abs() - step * self.lam).clamp_min(0.0)

    def residual(self, theta: Tensor, gradient: Tensor) -> float:
        on = (gradient + self.lam * theta.sign()).abs()
        off = (gradient.abs() - self.lam).clamp_min(0.0)
        return float(torch.where(theta != 0, on, off).max())

    def tangent(self, theta: Tensor) -> Tensor:
        support = theta.flatten().nonzero()[:, 0]
        basis = theta.new_zeros(theta.numel(), len(support))
        basis[support, torch.arange(len(support), device=theta.device)] = 1.0
        return basis

    def sign(self, theta: Tensor) -> Tensor:
        return theta.sign()

    def largest_off(self, theta: Tensor, z: Tensor) -> float:
        off = z[theta == 0].abs()
        return float(off.max()) if off.numel() else 0.0


@final
@dataclass(frozen=True, init=False)
class Nuclear(Penalty):
    """`lam` times the sum of the singular values of the matrix theta: its rank is low.

    ValueError unless `lam` is positive, and where theta is no matrix.
    """

    words: ClassVar[tuple[str, str]] = ("rank", "off the tangent space")
    of_matrices: ClassVar[bool] = True

    def __init__(self, lam: float) -> None:
        object.__setattr__(self, "lam", as_positive("lam in metaot.inverse.Nuclear(lam)", lam))

    def value(self, theta: Tensor) -> Tensor:
        return self.lam * torch.linalg.svdvals(theta).sum()

    def prox(self, theta: Tensor, step: float) -> Tensor:
        U, s, Vh = torch.linalg.svd(theta, full_matrices=False)
        return (U * (s - step * self.lam).clamp_min(0.0)) @ Vh

    def residual(self, theta: Tensor, gradient: Tensor) -> float:
        on = gradient + self.lam * self.sign(theta)
        off = _off(theta, gradient)
        beyond = _spectral(off) - self.lam
        return max(_spectral(on - off), beyond, 0.0)

    def tangent(self, theta: Tensor) -> Tensor:
        U, V = _spaces(theta)
        d, e = theta.shape
        rows, columns = (torch.linalg.qr(W, mode="complete")[0][:, W.shape[1] :] for W in (U, V))
        within = [
            torch.einsum("ip,jq->ijpq", *sides).reshape(d * e, -1) for sides in ((U, V), (U, columns), (rows, V))
        ]
        return torch.cat(within, -1)

    def sign(self, theta: Tensor) -> Tensor:
        U, V = _spaces(theta)
        return U @ V.mT

    def largest_off(self, theta: Tensor, z: Tensor) -> float:
        return _spectral(_off(theta, z))


@final
@dataclass(frozen=True)
class Free(Penalty):
    """No penalty; theta is in the span of `basis`, orthonormal vectors in columns, if there is one."""

    lam: float = 0.0
    basis: Float[Tensor, "unknowns free"] | None = None

    def value(self, theta: Tensor) -> Tensor:
        return theta.new_zeros(())

    def prox(self, theta: Tensor, step: float) -> Tensor:
        basis = self.tangent(theta)
        return (basis @ (basis.mT @ theta.flatten())).reshape(theta.shape)

    def residual(self, theta: Tensor, gradient: Tensor) -> float:
        return float((self.tangent(theta).mT @ gradient.flatten()).abs().max())

    def tangent(self, theta: Tensor) -> Tensor:
        return (
            torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device) if self.basis is None else self.basis
        )

    def sign(self, theta: Tensor) -> Tensor:
        return torch.zeros_like(theta)

    def largest_off(self, theta: Tensor, z: Tensor) -> float:
        return 0.0


def _spaces(theta: Float[Tensor, "d e"]) -> tuple[Float[Tensor, "d rank"], Float[Tensor, "e rank"]]:
    """Return the singular vectors of theta with values above rounding."""
    U, s, Vh = torch.linalg.svd(theta, full_matrices=False)
    kept = s > _ZERO * s.max() if float(s.max()) > 0 else torch.zeros_like(s, dtype=torch.bool)
    return U[:, kept], Vh.mT[:, kept]


def _off(theta: Float[Tensor, "d e"], z: Float[Tensor, "d e"]) -> Float[Tensor, "d e"]:
    """Return z without what shares the row or the column space of theta."""
    U, V = _spaces(theta)
    z = z - U @ (U.mT @ z)
    return z - (z @ V) @ V.mT


def _spectral(z: Float[Tensor, "d e"]) -> float:
    return float(torch.linalg.matrix_norm(z, 2))
