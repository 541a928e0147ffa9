"""Starts that need no training: zeros, and the closed form between two Gaussians.

Thornton and Cuturi (arXiv 2206.07630) start Sinkhorn from the potential of the map between the Gaussians with
the problem's means and covariances. Here the Gaussians are solved at the eps of the problem (Janati et al.,
arXiv 2006.02572): the same potential as eps -> 0, a better one before, and no covariance is inverted.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.predictor import Predictor
from metaot.geometry import Geometry
from metaot.geometry.base import expand_eps
from metaot.potentials import DualPotentials
from metaot.problem import Problem, require_balanced, require_problem


@final
class ZeroStart(Predictor):
    """f = 0, the start of a solver that was given none."""

    def predict(self, problem: Problem) -> DualPotentials:
        require_problem(problem)
        return DualPotentials.from_f(problem, torch.zeros_like(problem.a))


@final
class GaussianStart(Predictor):
    """The entropic potential between the Gaussians with the means and covariances of the two measures.

    For the cost |x - y|^2 on any geometry with coordinates; ValueError on others. Measures on a line, or on
    a single atom, are Gaussians too.
    """

    @property
    def domain(self) -> str:
        return "problems on coordinates with the cost 'sqeuclidean'"

    @staticmethod
    def fits(geometry: Geometry) -> bool:
        """Return whether there is a closed form on this geometry."""
        return geometry.points is not None and geometry.cost_name == "sqeuclidean"

    def predict(self, problem: Problem) -> DualPotentials:
        points = require_balanced(problem, "the Gaussian start").geometry.points
        if points is None or not self.fits(problem.geometry):
            raise ValueError(
                "the Gaussian start is for coordinates with the cost 'sqeuclidean', "
                f"got {problem.geometry}: start from zeros"
            )
        x, y = points
        f = gaussian_potential(problem.a.double(), x.double(), problem.b.double(), y.double(), problem.eps)
        return DualPotentials.from_f(problem, f.to(problem.a))


def gaussian_potential(
    a: Float[Tensor, "*batch n"],
    x: Float[Tensor, "..."],
    b: Float[Tensor, "*batch m"],
    y: Float[Tensor, "..."],
    eps: float | Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch n"]:
    r"""Return $f(z) = |z|^2 - 2 z \cdot (\bar y - \bar x) - z^\top F z$ with $z = x - \bar x$.

    $F = B^{1/2} (\sqrt{B^{1/2} A B^{1/2} + c^2} + c)^{-1} B^{1/2}$ for covariances A, B and $c = \epsilon/4$:
    as $c \to 0$, the linear part of the Monge map. The clouds are n d and m d, or one for each instance.
    """
    mean_a, z, A = _moments(a, x)
    mean_b, _, B = _moments(b, y)
    c = expand_eps(eps, mean_a) / 4
    root = _matrix_root(B)
    values, vectors = torch.linalg.eigh(root @ A @ root)
    half = root @ vectors
    F = half @ (half / ((values.clamp_min(0) + c**2).sqrt() + c)[..., None, :]).mT
    shift = (mean_b - mean_a)[..., None, :]
    return (z * (z - 2 * shift - z @ F)).sum(-1)


def _moments(
    a: Float[Tensor, "*batch n"], x: Float[Tensor, "..."]
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch n d"], Float[Tensor, "*batch d d"]]:
    """Return the mean, the points around it, and the covariance."""
    mean = (a[..., None, :] @ x).squeeze(-2)
    centred = x - mean[..., None, :]
    return mean, centred, (a[..., None] * centred).mT @ centred


def _matrix_root(S: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT
