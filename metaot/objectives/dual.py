"""The dual objective of entropic transport, equations (5), (15) and (16) of Meta OT (arXiv 2206.05262)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot.geometry.base import expand_eps
from metaot.potentials import (
    DualPotentials,
    PotentialsLike,
    as_potentials,
    exact_transform,
    reference_mass,
    sinkhorn_step,
    tilted,
)
from metaot.problem import Problem, require_problem

_LOWEST = -80.0
"""Exponents below it are zero in float32, and slow."""


def dual_value(problem: Problem, potentials: PotentialsLike) -> Float[Tensor, "*batch"]:
    r"""Return $\langle f, a \rangle + \langle g, b \rangle - \epsilon (\sum_{ij} P_{ij} - 1)$.

    `potentials` are `DualPotentials`, a pair (f, g) of tensors, arrays or lists, or a `Solution`.

    Where a marginal has a price, $\langle -\phi^*(-f), a \rangle$ stands in place of $\langle f, a \rangle$:
    $\rho \langle 1 - e^{-f/\rho}, a \rangle$ for `KL(rho)`; $\langle \min(f, \rho), a \rangle$ for `TV(rho)`,
    minus infinity for $f < -\rho$. The mass of $a b^\top$ then stands in place of one.

    For any f and g, a lower bound of min <C, P> + eps KL(P | a b^T), reached at the solution. With equation 5
    as printed, whose entropy is that of P alone, it agrees up to a constant of (a, b, eps). Differentiable
    in f, g, a and b.
    """
    potentials = as_potentials(require_problem(problem), potentials)
    excess = (potentials.g - exact_transform(problem, potentials.f)) / expand_eps(problem.eps, potentials.g)
    mass = tilted(problem.b, excess).sum(-1)
    return _worth(problem, potentials) - problem.eps * (mass - reference_mass(problem))


def _worth(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    source, target = problem.marginals.source, problem.marginals.target
    return (source.worth(potentials.f) * problem.a).sum(-1) + (target.worth(potentials.g) * problem.b).sum(-1)


def best_value(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return the dual value of f and the best g for it, or of g and the best f: <f, a> + <g, b> if balanced."""
    return _worth(problem, potentials) if problem.is_balanced else dual_value(problem, potentials)


def weight_slope(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch n"]:
    """Return the derivative of the value in a at the solution, but for a constant where the mass is one."""
    f, side = potentials.f, problem.marginals.source
    if problem.is_balanced:
        return f
    eps = expand_eps(problem.eps, f)
    share = ((f - exact_transform(problem.T, potentials.g)) / eps).exp()
    return side.worth(f) - eps * (share - problem.b.sum(-1, keepdim=True))


def dual_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return the loss of a prediction (equation 16): minus the dual value of f and the best g for it.

    The plan of a balanced problem has mass one, so the value is <f, a> + <g, b> (equation 15), and its gradient in
    f is the error a - P 1.
    """
    if problem.a.requires_grad or problem.b.requires_grad:
        return -best_value(problem, DualPotentials.from_f(problem, f))
    _, missing, value = sinkhorn_step(problem.flat(), f.reshape(-1, f.shape[-1]))
    value = value.reshape(f.shape[:-1]).to(problem.a)
    return _WithGradient.apply(f, -value, -missing.reshape(f.shape))  # type: ignore[no-any-return]


def scaled_dual_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return `dual_loss` in units of eps, which gives all temperatures the same weight.

    The gap to the optimum is then the divergence KL(P* | P) of the plans, so that the L1 error of the marginals is
    at most the square root of twice the gap (Pinsker), at every eps.
    """
    return dual_loss(problem, f) / problem.eps


def semidual_loss(
    f: Float[Tensor, "batch n"],
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    C: Float[Tensor, "n m"] | Float[Tensor, "batch n m"],
    eps: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    r"""Return the `scaled_dual_loss` of problems with a small cost matrix, shared or not, on the CPU in float32.

    Problems are evaluated one after the other, so that each stays in the cache, and on the atoms with mass.
    Differentiable in f, with the gradient $(P 1 - a)/\epsilon$.
    """
    arrays = [value.detach().float().cpu().numpy() for value in (f, a, b, C)]
    potentials, sources, targets, costs = arrays
    values, gradients = np.empty(len(potentials), np.float32), np.zeros_like(potentials)
    for k, temperature in enumerate(eps.tolist()):
        rows = sources[k].nonzero()[0]
        weights, matrix = sources[k][rows], costs if costs.ndim == 2 else costs[k]
        h = potentials[k][rows] + temperature * np.log(weights)
        values[k], source = _evaluated(h, targets[k], matrix[rows], temperature)
        values[k] -= potentials[k][rows] @ weights / temperature
        gradients[k][rows] = (source - weights) / temperature
    found = torch.from_numpy(values).to(f), torch.from_numpy(gradients)
    return _WithGradient.apply(f, *found)  # type: ignore[no-any-return]


def _evaluated(h: np.ndarray, b: np.ndarray, C: np.ndarray, eps: float) -> tuple[float, np.ndarray]:
    """Return minus <g, b>/eps for the best g, and the sums of the plan's rows."""
    z = h[:, None] - C
    top = z.max(0)
    z -= top
    z *= 1 / eps
    np.maximum(z, _LOWEST, out=z)
    np.exp(z, out=z)
    sums = z.sum(0)
    return float((top / eps + np.log(sums)) @ b), z @ (b / sums)


class _WithGradient(torch.autograd.Function):
    """A value for each instance, and its gradient in f, which was found with it."""

    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(f))
        return value

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return v[..., None].to(gradient) * gradient, None, None
