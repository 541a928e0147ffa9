r"""Coordinates of a pair of measures in which their linear transport is the identity.

With the means m, n and the matrix M of the linear map (`metaot.gaussian`), set $u = M^{1/2} (x - m)$ and
$v = M^{-1/2} (y - n)$, both divided by one number, so that the mean variance is one. Then both measures have the
same covariance, and the transport problem in u and v is the same, without its linear part. All roots are
symmetric: the frame of the exchanged problem is the exchanged frame.
"""

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier.problem import SampleProblem
from metaot.gaussian import NARROWEST, Roots, gaussian_frame, mean_variance, moments, symmetric_roots

_ROOTS = partial(symmetric_roots, eigh=torch.linalg.eigh)


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
    def gaussian(cls, problem: SampleProblem, roots: Roots = _ROOTS) -> "Frame":
        """Return the frame of the samples' means and covariances: the identity in it is the Bures map.

        `roots` returns the square root and its inverse of positive definite matrices, by default from
        eigenvalues.
        """
        x, y = problem.x.double(), problem.y.double()
        parts = gaussian_frame(x, y, torch.eye(problem.dim).to(x), roots)
        return cls(*(part.to(problem.x) for part in parts))

    @classmethod
    def identity(cls, problem: SampleProblem) -> "Frame":
        """Return the frame in which the map that moves nothing is the identity: both clouds scaled alike."""
        mean, S = moments(torch.cat([problem.x, problem.y], -2).double())
        eye = torch.eye(problem.dim).to(S)
        scale = mean_variance(S, eye).clamp_min(NARROWEST)
        unit = eye / scale.sqrt()[..., None, None]
        return cls(*(part.to(problem.x) for part in (mean, mean, unit, unit, scale)))

    @property
    def T(self) -> "Frame":
        """The frame of the problem with source and target exchanged."""
        return Frame(self.n, self.m, self.V, self.U, self.scale)

    def __getitem__(self, index: object) -> "Frame":
        return Frame(*(part[index] for part in self.parts()))  # type: ignore[index]

    def parts(self) -> tuple[Tensor, ...]:
        """Return m, n, U, V and scale."""
        return self.m, self.n, self.U, self.V, self.scale

    def to(self, like: Tensor) -> "Frame":
        """Return the frame in the dtype and on the device of `like`."""
        return Frame(*(part.to(like) for part in self.parts()))

    def reshaped(self, batch: torch.Size) -> "Frame":
        """Return the same frames with another batch shape."""
        rank = self.scale.ndim
        return Frame(*(part.reshape((*batch, *part.shape[rank:])) for part in self.parts()))

    def enter(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the coordinates u of points x of the source; `frame.T.enter(y)` does it for the target."""
        return (x - self.m[..., None, :]) @ self.U.mT

    def outside(self, u: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the points x with the coordinates u."""
        return self.m[..., None, :] + self.scale[..., None, None] * (u @ self.V)
