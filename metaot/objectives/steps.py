"""Objectives of a few Sinkhorn steps from a prediction, to compare with the dual value, the default."""

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.potentials import c_transform, centred, tilted
from metaot.problem import Problem

TARGET_STEPS = 5
"""Sinkhorn steps from a prediction to its target."""
UNROLLED_STEPS = 2
"""Sinkhorn steps after which the error is measured."""


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
