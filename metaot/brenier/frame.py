r"""Coordinates of a pair of measures in which their linear transport is the identity.

With means m, n and covariances A, B, the Gaussian (Bures) map is $y = n + M (x - m)$,
$M = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}$. In $u = M^{1/2} (x - m)$ and $v = M^{-1/2} (y - n)$ both
measures have one covariance, and $\langle x - m, y - n \rangle = \langle u, v \rangle$: it is the same transport
problem, without its linear part. Both are divided by one number, so that their mean variance is one. All roots are
symmetric: nothing is chosen, and source and target change roles when exchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.alone.frame import NARROWEST, RELATIVE_FLOOR
from metaot.brenier.problem import SampleProblem

Roots = Callable[[Tensor], tuple[Tensor, Tensor]]
"""S -> (S^1/2, S^-1/2)."""


@final
@dataclass(frozen=True)
class Frame:
    r"""u = (x - m) U^T, v = (y - n) V^T and $\langle x - m, y - n \rangle = scale \, \langle u, v \rangle$."""

    m: Float[Tensor, "*batch d"]
    n: Float[Tensor, "*batch d"]
    U: Float[Tensor, "*batch d d"]
    V: Float[Tensor, "*batch d d"]
    scale: Float[Tensor, "*batch"]

    @classmethod
    def gaussian(cls, problem: SampleProblem, roots: "Roots | None" = None) -> "Frame":
        """Return the frame of the samples' means and covariances: the identity in it is the Bures map.

        `roots` returns the square root and its inverse of positive definite matrices; None takes eigenvalues.
        """
        roots = roots or _roots
        (m, A), (n, B) = (_moments(z.double()) for z in (problem.x, problem.y))
        floor = RELATIVE_FLOOR * torch.maximum(_mean_variance(A), _mean_variance(B)).clamp_min(NARROWEST)
        ridge = floor[..., None, None] * torch.eye(problem.dim).to(A)
        A, B = A + ridge, B + ridge
        half, inverse = roots(A)
        forward, backward = roots(inverse @ roots(half @ B @ half)[0] @ inverse)
        scale = _mean_variance(forward @ A @ forward)
        unit = scale.rsqrt()[..., None, None]
        parts = (m, n, unit * forward, unit * backward, scale)
        return cls(*(part.to(problem.x) for part in parts))

    @classmethod
    def identity(cls, problem: SampleProblem) -> "Frame":
        """Return the frame in which the identity is the identity: both clouds shifted and scaled alike."""
        both = torch.cat([problem.x, problem.y], -2).double()
        mean, S = _moments(both)
        scale = _mean_variance(S).clamp_min(NARROWEST)
        unit = torch.eye(problem.dim).to(S) / scale.sqrt()[..., None, None]
        parts = (mean, mean, unit, unit, scale)
        return cls(*(part.to(problem.x) for part in parts))

    @property
    def T(self) -> "Frame":
        """The frame of the problem with source and target exchanged."""
        return Frame(self.n, self.m, self.V, self.U, self.scale)

    def __getitem__(self, index: object) -> "Frame":
        parts = (self.m, self.n, self.U, self.V, self.scale)
        return Frame(*(part[index] for part in parts))  # type: ignore[index]

    def to(self, like: Tensor) -> "Frame":
        """Return the frame in the dtype and on the device of `like`."""
        parts = (self.m, self.n, self.U, self.V, self.scale)
        return Frame(*(part.to(like) for part in parts))

    def reshaped(self, batch: torch.Size) -> "Frame":
        """Return the same frames with another batch shape."""
        rank = self.scale.ndim
        parts = (self.m, self.n, self.U, self.V, self.scale)
        return Frame(*(part.reshape((*batch, *part.shape[rank:])) for part in parts))

    def enter(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the coordinates u of points x of the source; `frame.T.enter(y)` are those of the target's."""
        return (x - self.m[..., None, :]) @ self.U.mT

    def outside(self, u: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the points x with the coordinates u."""
        return self.m[..., None, :] + self.scale[..., None, None] * (u @ self.V)


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    mean = z.mean(-2)
    centred = z - mean[..., None, :]
    return mean, centred.mT @ centred / z.shape[-2]


def _mean_variance(S: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch"]:
    return S.diagonal(dim1=-2, dim2=-1).mean(-1)


def _roots(S: Float[Tensor, "*batch d d"]) -> tuple[Float[Tensor, "*batch d d"], Float[Tensor, "*batch d d"]]:
    """Return the square root of a positive definite matrix and the inverse of that."""
    values, vectors = torch.linalg.eigh(S)
    root = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()[..., None, :]
    return (vectors * root) @ vectors.mT, (vectors / root) @ vectors.mT
