"""The dual objective of entropic transport, equations (5), (15) and (16) of Meta OT (arXiv 2206.05262).

And, to compare with it, objectives of a few Sinkhorn steps from a prediction.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from metaot.geometry.base import expand_eps
from metaot.potentials import DualPotentials, SinkhornStep, c_transform, centred, tilted
from metaot.problem import Problem

TARGET_STEPS = 5
"""Sinkhorn steps from a prediction to its target."""
UNROLLED_STEPS = 2
"""Sinkhorn steps after which the error is measured."""


def dual_value(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    r"""Return $\langle f, a \rangle + \langle g, b \rangle - \epsilon (\sum_{ij} P_{ij} - 1)$.

    For any f and g, a lower bound of min <C, P> + eps KL(P | a b^T), reached at the solution. With equation 5
    as printed, whose entropy is that of P alone, it agrees up to a constant of (a, b, eps). Differentiable
    in f, g, a and b.
    """
    excess = (potentials.g - c_transform(problem, potentials.f)) / expand_eps(problem.eps, potentials.g)
    mass = tilted(problem.b, excess).sum(-1)
    return linear_value(problem, potentials) - problem.eps * (mass - 1)


def linear_value(problem: Problem, potentials: DualPotentials) -> Float[Tensor, "*batch"]:
    """Return <f, a> + <g, b>: the dual value of f and the best g for it, or of g and the best f."""
    return (potentials.f * problem.a).sum(-1) + (potentials.g * problem.b).sum(-1)


def dual_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return the loss of a prediction (equation 16): minus the dual value of f and the best g for it.

    Their plan has mass one, so the value is <f, a> + <g, b> (equation 15), and its gradient in f is the error
    a - P 1.
    """
    if problem.a.requires_grad or problem.b.requires_grad:
        return -linear_value(problem, DualPotentials.from_f(problem, f))
    return _DualLoss.apply(f, problem)  # type: ignore[no-any-return]


class _DualLoss(torch.autograd.Function):
    """The value and its gradient for the price of one Sinkhorn step."""

    @staticmethod
    def forward(ctx: FunctionCtx, f: Tensor, problem: Problem) -> Tensor:
        _, missing, value = SinkhornStep(problem.flat())(f.reshape(-1, f.shape[-1]))
        ctx.save_for_backward(missing.reshape(f.shape).to(f))
        return -value.reshape(f.shape[:-1]).to(problem.a)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override], the decorator makes ctx positional
        ctx: FunctionCtx, v: Tensor
    ) -> tuple[Tensor, None]:
        (missing,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return -v[..., None].to(missing) * missing, None


def scaled_dual_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return `dual_loss` in units of eps, which gives all temperatures the same weight.

    The gap to the optimum is then the divergence KL(P* | P) of the plans, so that the L1 error of the marginals is
    at most the square root of twice the gap (Pinsker), at every eps.
    """
    return dual_loss(problem, f) / problem.eps


def bootstrapped_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return the mean square under a, in units of eps, of the change of f by a few Sinkhorn steps.

    As in UNOT (Geuter et al., arXiv 2411.01582), the potential after the steps is constant to the gradient.
    """
    with torch.no_grad():
        target = f
        for _ in range(TARGET_STEPS):
            target = c_transform(problem.T, c_transform(problem, target))
    off = centred(problem.a, f - target) / expand_eps(problem.eps, target)
    return (problem.a * off.square()).sum(-1)


def unrolled_loss(problem: Problem, f: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Return KL(a | P 1) after a few Sinkhorn steps, through which the gradient flows."""
    g = c_transform(problem, f)
    for _ in range(UNROLLED_STEPS):
        f = c_transform(problem.T, g)
        g = c_transform(problem, f)
    excess = (f - c_transform(problem.T, g)) / expand_eps(problem.eps, f)
    return tilted(problem.a, excess).sum(-1) - 1 - (problem.a * excess).sum(-1)
