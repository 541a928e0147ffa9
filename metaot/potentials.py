"""Dual potentials of entropic transport, and what follows from them in closed form.

The Kullback-Leibler convention: P_ij = a_i b_j exp((f_i + g_j - C_ij)/eps). Potentials are finite where a
or b is zero, and f -> f + t, g -> g - t changes nothing. Equations (6) and (8) of Meta OT (arXiv 2206.05262).
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot import core
from metaot.geometry import Eps, Geometry
from metaot.geometry.arrays import core_costs, has_axes, is_for_the_core, temperatures
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
    """The c-transform; its derivative is a softmin with the incoming gradient, one for each sign."""

    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, a: Tensor, geometry: Geometry, eps: Eps) -> Tensor:
        g = geometry.T.softmin(f + expand_eps(eps, f) * a.log(), eps)
        ctx.save_for_backward(f, a, g)
        ctx.geometry, ctx.eps = geometry, eps  # type: ignore[attr-defined]
        return g

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        f, a, g = ctx.saved_tensors  # type: ignore[attr-defined]
        geometry, eps = ctx.geometry, ctx.eps  # type: ignore[attr-defined]
        scale = expand_eps(eps, f)
        gradient_f, gradient_a = torch.zeros_like(f), torch.zeros_like(a)
        for sign, part in ((1, v.clamp_min(0)), (-1, v.neg().clamp_min(0))):
            if sign == -1 and not bool(part.any()):
                continue
            exponent = (f - geometry.softmin(g + scale * part.log(), eps)) / scale
            gradient_f -= sign * tilted(a, exponent)
            gradient_a -= sign * scale * _capped(exponent).exp()
        return gradient_f, gradient_a, None, None


@final
@dataclass(frozen=True)
class SinkhornStep:
    """What one Sinkhorn step from f leads to, and what it shows of f: a - P 1 and the dual value, with the best g."""

    f: Float[Tensor, "*batch n"]
    missing: Float[Tensor, "*batch n"]
    value: Float[Tensor, "*batch"]


@torch.no_grad()
def sinkhorn_step(problem: Problem, f: Float[Tensor, "*batch n"]) -> SinkhornStep:
    """Make one Sinkhorn step, in float64 and without derivatives, on all atoms; f and a - P 1 have the dtype of f."""
    problem = problem.to(problem.a.double()) if problem.a.dtype != torch.float64 else problem
    start = f.to(problem.a)
    if has_axes(problem.geometry) and is_for_the_core(problem.geometry, problem.a):
        flat, n = problem.flat(), f.shape[-1]
        arrays = flat.a.detach().numpy(), flat.b.detach().numpy(), temperatures(flat.eps, len(flat.a))
        found = core.sinkhorn_step(
            core_costs(flat.geometry), *arrays, start.reshape(-1, n).numpy(), threads=torch.get_num_threads()
        )
        following, missing, value = map(torch.from_numpy, found)
    else:
        g = c_transform(problem, start)
        following = c_transform(problem.T, g)
        missing = problem.a - tilted(problem.a, (start - following) / expand_eps(problem.eps, start))
        value = (start * problem.a).sum(-1) + (g * problem.b).sum(-1)
    following, missing = (values.reshape(f.shape).to(f) for values in (following, missing))
    return SinkhornStep(following, missing, value.reshape(f.shape[:-1]))


def centred(weights: Float[Tensor, "*batch n"], f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Remove the constant that means nothing, so that a huge one costs no digits."""
    return f - (f * weights).sum(-1, keepdim=True)


def tilted(weights: Float[Tensor, "*batch n"], exponent: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Return w exp(x); where w is zero, that is zero and its derivatives are finite, however large x."""
    return weights * torch.where(weights > 0, exponent, _capped(exponent)).exp()


def _capped(exponent: Tensor) -> Tensor:
    """Return it below the bound at which the exponential overflows."""
    return exponent.clamp_max(math.log(torch.finfo(exponent.dtype).max) - 1)


def source_marginal(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n"]:
    """Return P 1."""
    best = c_transform(problem.T, potentials.g)
    return tilted(problem.a, (potentials.f - best) / expand_eps(problem.eps, best))


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
    return tilted(problem.a[..., :, None] * problem.b[..., None, :], exponent)


def transport_cost(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <C, P>, without the plan."""
    cost = problem.geometry.mean_cost(_weighted(problem.T, potentials.g), problem.eps)
    return (source_marginal(problem, potentials) * cost).sum(-1)


def barycentric_map(
    problem: Problem, potentials: DualPotentials, values: Float[Tensor, "*#batch m k"]
) -> Float[Tensor, "*batch n k"]:
    """Return for each source atom the mean of the target's `values` under its row of the plan.

    With the target's coordinates as values this is the barycentric projection; it is defined on source
    atoms without mass too.
    """
    return problem.geometry.mean(_weighted(problem.T, potentials.g), values, problem.eps)


def _weighted(problem: Problem, f: Tensor) -> Tensor:
    return f + expand_eps(problem.eps, f) * problem.a.log()
