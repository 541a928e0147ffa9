"""Dual potentials of entropic transport, and what follows from them in closed form.

The Kullback-Leibler convention: P_ij = a_i b_j exp((f_i + g_j - C_ij)/eps). Potentials are finite where a or b
is zero, and f -> f + t, g -> g - t changes nothing. Equations (6) and (8) of Meta OT (arXiv 2206.05262).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot.geometry import Eps, Geometry
from metaot.geometry.base import expand_eps
from metaot.problem import Problem


@final
@dataclass(frozen=True)
class DualPotentials:
    """Potentials f on the source and g on the target, in the units of the cost."""

    f: Float[Tensor, "*batch n"]
    g: Float[Tensor, "*batch m"]

    @classmethod
    def from_f(cls, problem: Problem, f: Float[Tensor, "*batch n"]) -> "DualPotentials":
        """Complete f by the g that is best for it."""
        return cls(f, c_transform(problem, f))

    @property
    def T(self) -> "DualPotentials":
        """The same potentials for the problem with source and target exchanged."""
        return DualPotentials(self.g, self.f)

    def __getitem__(self, index: object) -> "DualPotentials":
        return DualPotentials(self.f[index], self.g[index])  # type: ignore[index]


def c_transform(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
    r"""Return the best g for f, $g_j = -\epsilon \log \sum_i a_i \exp((f_i - C_{ij})/\epsilon)$ (equation 8).

    The target marginal of (f, g) is then exact. `c_transform(problem.T, g)` is the best f for g.
    Differentiable in f and in a, also where a is zero; the geometry and eps are constants to it.
    """
    return _CTransform.apply(f, problem.a, problem.geometry, problem.eps)  # type: ignore[no-any-return]


class _CTransform(torch.autograd.Function):
    """The c-transform; its derivative is a mean under the transposed weights, so no n x m is kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, a: Tensor, geometry: Geometry, eps: Eps) -> Tensor:
        g = geometry.T.softmin(f + expand_eps(eps, f) * a.log(), eps)
        ctx.save_for_backward(f, a, g)
        ctx.geometry, ctx.eps = geometry, eps  # type: ignore[attr-defined]
        return g

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, v: Tensor) -> tuple[Tensor, Tensor, None, None]:
        f, a, g = ctx.saved_tensors  # type: ignore[attr-defined]
        geometry, eps = ctx.geometry, ctx.eps  # type: ignore[attr-defined]
        mean = geometry.mean(g, v[..., None], eps)[..., 0]
        scale = expand_eps(eps, f)
        share = mean * ((f - geometry.softmin(g, eps)) / scale).exp()
        return -a * share, -scale * share, None, None


def source_marginal(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n"]:
    """Return P 1."""
    best = c_transform(problem.T, potentials.g)
    return problem.a * ((potentials.f - best) / expand_eps(problem.eps, best)).exp()


def target_marginal(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch m"]:
    """Return P^T 1."""
    return source_marginal(problem.T, potentials.T)


def marginal_error(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return the L1 error of both marginals, ||P 1 - a||_1 + ||P^T 1 - b||_1."""
    source = (source_marginal(problem, potentials) - problem.a).abs().sum(-1)
    return source + (target_marginal(problem, potentials) - problem.b).abs().sum(-1)


def plan(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n m"]:
    """Return the whole of P: batch x n x m numbers, so only where that fits into memory."""
    C = problem.geometry.cost_rows(slice(None)).to(problem.a)
    exponent = (potentials.f[..., :, None] + potentials.g[..., None, :] - C) / expand_eps(problem.eps, C, 2)
    return problem.a[..., :, None] * problem.b[..., None, :] * exponent.exp()


def transport_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P>, without the plan."""
    cost = problem.geometry.mean_cost(_weighted(problem.T, potentials.g), problem.eps)
    return (source_marginal(problem, potentials) * cost).sum(-1)


def barycentric_map(
    problem: Problem, potentials: DualPotentials, values: Float[Tensor, "*batch m k"]
) -> Float[Tensor, "*batch n k"]:
    """Return for each source atom the mean of the target's `values` under its row of the plan.

    With the target's coordinates as values this is the barycentric projection; it is defined on source
    atoms without mass too.
    """
    return problem.geometry.mean(_weighted(problem.T, potentials.g), values, problem.eps)


def _weighted(problem: Problem, f: Tensor) -> Tensor:
    return f + expand_eps(problem.eps, f) * problem.a.log()
