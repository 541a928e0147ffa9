"""Convex potentials and the maps that are their gradients (Brenier 1991; equations 10 and 11 of Meta OT)."""

from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.brenier.icnn import Icnn
from metaot.brenier.problem import Batched, SampleProblem
from metaot.gaussian import NARROWEST, Roots, gaussian_frame, mean_variance, moments, symmetric_roots
from metaot.geometry.checks import tensor

_ROOTS = partial(symmetric_roots, eigh=torch.linalg.eigh)


@final
@dataclass(frozen=True)
class Frame(Batched):
    r"""Coordinates of a pair of measures in which their linear transport is the identity.

    $u = U (x - m)$, $v = V (y - n)$ and $\langle x - m, y - n \rangle = scale \, \langle u, v \rangle$. With the
    means m, n and the matrix M of the linear map (`metaot.gaussian`), U is M^1/2 and V is M^-1/2, both divided by
    one number, so that the mean variance is one. Both measures then have the same covariance. All roots are
    symmetric: the frame of the exchanged problem is the exchanged frame.
    """

    m: Float[Tensor, "*batch d"]
    n: Float[Tensor, "*batch d"]
    U: Float[Tensor, "*batch d d"]
    V: Float[Tensor, "*batch d d"]
    scale: Float[Tensor, "*batch"]

    @property
    def batch_shape(self) -> torch.Size:
        return self.scale.shape

    @classmethod
    def gaussian(cls, problem: SampleProblem, roots: Roots = _ROOTS) -> "Frame":
        """Return the frame of the samples' means and covariances: the identity in it is the Bures map."""
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

    def parts(self) -> tuple[Tensor, ...]:
        """Return m, n, U, V and scale."""
        return self.m, self.n, self.U, self.V, self.scale

    def enter(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the coordinates u of points x of the source; `frame.T.enter(y)` does it for the target."""
        return (x - self.m[..., None, :]) @ self.U.mT

    def outside(self, u: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the points x with the coordinates u."""
        return self.m[..., None, :] + self.scale[..., None, None] * (u @ self.V)


@final
@dataclass(frozen=True)
class BrenierPotential(Batched):
    r"""The convex function $\phi(x) = \langle n, x \rangle + s \, \Phi(u(x))$, $\Phi$ an ICNN in a frame."""

    icnn: Icnn
    weights: Float[Tensor, "*batch count"]
    frame: Frame

    @property
    def batch_shape(self) -> torch.Size:
        return self.frame.batch_shape

    def __call__(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k"]:
        """Return phi at points x."""
        inner = self.icnn.value(self.weights, self.frame.enter(x))
        linear = (x * self.frame.n[..., None, :]).sum(-1)
        return linear + self.frame.scale[..., None] * inner

    def gradient(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the gradient of phi at points x: the transport map."""
        slope = self.icnn.gradient(self.weights, self.frame.enter(x))
        return self.frame.T.outside(slope)


@final
@dataclass(frozen=True)
class BrenierPair(Batched):
    """A potential on the source's space, and one on the target's that approximates its conjugate."""

    phi: BrenierPotential
    psi: BrenierPotential

    @property
    def batch_shape(self) -> torch.Size:
        return self.phi.batch_shape

    def push(self, x: ArrayLike) -> Float[Tensor, "*batch k d"]:
        """Send points of the source, *batch k d, to the target."""
        return self.phi.gradient(tensor("x", x, like=self.phi.weights))

    def pull(self, y: ArrayLike) -> Float[Tensor, "*batch k d"]:
        """Send points of the target, *batch k d, back to the source."""
        return self.psi.gradient(tensor("y", y, like=self.psi.weights))

    def __repr__(self) -> str:
        batch, dim = tuple(self.batch_shape), self.phi.frame.m.shape[-1]
        return f"BrenierPair of the batch {batch} in dimension {dim}"

    @property
    def T(self) -> "BrenierPair":
        """The pair of the problem with source and target exchanged."""
        return BrenierPair(self.psi, self.phi)
