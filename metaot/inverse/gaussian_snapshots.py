"""Snapshots of Gaussian populations in closed form, for potentials x^T theta x: no transport problem is solved.

The optimal map back from N(m1, S1) to N(m0, S0) is linear, B of the Bures distance. One step of JKO gives theta =
(B - I)/(2 tau); the flow in continuous time, whose maps are exponentials, gives log(B)/(2 tau).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.geometry.checks import given, require_finite, together
from metaot.inverse.matching import of_matrix, of_products
from metaot.inverse.quadratic import Quadratic

_SYMMETRIC = 1e-8
"""How far a covariance may be from symmetric, relative to its largest entry."""


@final
class _Step(NamedTuple):
    """Of new positions y of mean m, covariance S: where the gradient counts, M y + c, and the force, G y + b."""

    m: Tensor
    S: Tensor
    M: Tensor
    c: Tensor
    G: Tensor
    b: Tensor


@final
@dataclass(frozen=True, init=False)
class GaussianSnapshots:
    """Means, K d, and covariances, K d d, of a population at K times.

    `GaussianSnapshots.of(snapshots)` takes those of samples. Raises ValueError for shapes that do not fit, fewer
    than two times, and covariances that are not symmetric and positive definite.
    """

    means: Float[Tensor, "K d"]
    covariances: Float[Tensor, "K d d"]

    def __init__(self, means: ArrayLike, covariances: ArrayLike) -> None:
        m, S = together(given("means", means), given("covariances", covariances))
        for name, each in (("means", m), ("covariances", S)):
            require_finite(name, each)
        if m.ndim != 2 or len(m) < 2 or S.shape != (*m.shape, m.shape[1]):
            raise ValueError(
                "means must have the shape (times, d) with two or more times, and covariances (times, d, d), got "
                f"{tuple(m.shape)} and {tuple(S.shape)}"
            )
        for k, each in enumerate(S):
            uneven = float((each - each.mT).abs().max()) > _SYMMETRIC * float(each.abs().max())
            if uneven or float(torch.linalg.eigvalsh(each)[0]) <= 0:
                raise ValueError(
                    f"covariances[{k}] must be symmetric and positive definite, got {each.tolist()}: of samples "
                    "take more than d points that fill the space"
                )
        vars(self).update(means=m, covariances=S)

    @classmethod
    def of(cls, snapshots: Sequence[ArrayLike]) -> "GaussianSnapshots":
        """Return the moments of clouds, n_k d each."""
        clouds = together(*(given(f"snapshots[{k}]", each) for k, each in enumerate(snapshots)))
        means = [cloud.mean(0) for cloud in clouds]
        return cls(torch.stack(means), torch.stack([torch.cov(cloud.mT, correction=0) for cloud in clouds]))

    def gradients(self, taus: Sequence[float], share: float | None) -> Quadratic:
        """Return the loss of gradients over theta; `share` None for the flow in continuous time."""
        parts = []
        for m, S, M, c, G, b in self._steps(taus, share):
            at, force = M @ m + c, G @ m + b
            second = M @ S @ M.mT + torch.outer(at, at)
            with_force = G @ S @ M.mT + torch.outer(force, at)
            parts.append(of_products(second, with_force, torch.trace(G @ S @ G) + force.square().sum()))
        return Quadratic.mean(parts)

    def values(self, taus: Sequence[float], share: float | None) -> Quadratic:
        """Return the mean of Var[V + f/tau]/2, where f/tau has minus the force as its gradient."""
        parts = []
        for m, S, _, _, G, b in self._steps(taus, share):
            force = G @ m + b
            across = torch.outer(S @ force, m)
            h = (S @ G @ S + across + across.mT).flatten()
            constant = 0.5 * torch.trace(G @ S @ G @ S) + force @ S @ force
            parts.append(of_matrix(Quadratic(_covariance_of_products(m, S), h, constant)))
        return Quadratic.mean(parts)

    def _steps(self, taus: Sequence[float], share: float | None) -> list[_Step]:
        found = []
        for k, tau in enumerate(taus):
            (m0, m1), (S0, S1) = self.means[k : k + 2], self.covariances[k : k + 2]
            B = _bures(S1, S0)
            b, eye = m0 - B @ m1, torch.eye(len(m0), dtype=B.dtype, device=B.device)
            if share is None:
                G, shift = _function(B, torch.log) / tau, _function(B, _log_ratio) @ b / tau
                found.append(_Step(m1, S1, eye, torch.zeros_like(m1), G, shift))
            else:
                M, c = (1 - share) * B + share * eye, (1 - share) * b
                found.append(_Step(m1, S1, M, c, (B - eye) / tau, b / tau))
        return found


def _square(m: Float[Tensor, "d"]) -> Float[Tensor, "d d"]:
    return torch.outer(m, m)


def _covariance_of_products(m: Float[Tensor, "d"], S: Float[Tensor, "d d"]) -> Float[Tensor, "p p"]:
    """Return the covariances of y_k y_l and y_i y_j for y of mean m and covariance S."""
    half = torch.kron(S, S) + torch.kron(S, _square(m)) + torch.kron(_square(m), S)
    swap = torch.arange(len(half), device=m.device).reshape(len(m), len(m)).mT.flatten()
    return half + half[swap]


def _function(S: Float[Tensor, "d d"], change: Callable[[Tensor], Tensor]) -> Float[Tensor, "d d"]:
    """Return a function of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(0.5 * (S + S.mT))
    return (vectors * change(values)) @ vectors.mT


def _log_ratio(t: Tensor) -> Tensor:
    """Return log(t)/(t - 1), 1 at 1."""
    small = (t - 1).abs() < 1e-6
    return torch.where(small, 1 - (t - 1) / 2, t.log() / torch.where(small, 1.0, t - 1))


def _bures(A: Float[Tensor, "d d"], B: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Return the symmetric positive matrix M with M A M = B."""
    half, inverse = _function(A, torch.sqrt), _function(A, torch.rsqrt)
    return inverse @ _function(half @ B @ half, torch.sqrt) @ inverse
