"""Fitting d to plans that stay: d (K d) is to be the barycenter that they lead to, d exp(-sum_k w_k g_k)."""

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.averages.problem import BarycenterProblem, best_potential

_FARTHER = 1.5
"""How far a move goes, where one is right if the kernel is local."""

_FAIR = 0.1
"""A fit may end with this error, or with less than at its start."""


def looking_at_itself(
    problem: BarycenterProblem, log_d: Float[Tensor, "batch n"], mean: Float[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch"]]:
    """Return log of d exp(-mean) over d (K d), and the L1 error of the self-plan; `mean` is sum_k w_k g_k."""
    uniform = torch.full_like(log_d, 1 / log_d.shape[-1])
    ahead = best_potential(uniform, uniform, log_d - uniform.log(), problem) - mean
    return ahead, ((log_d - mean).exp() * ahead.neg().expm1()).abs().sum(-1)


def fitted(
    problem: BarycenterProblem,
    log_d: Float[Tensor, "batch n"],
    mean: Float[Tensor, "batch n"],
    goal: Float[Tensor, "batch"],
    *,
    moves: int,
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch"]]:
    """Return log d after some moves, or when the error of the self-plan is the goal; and that error.

    With a goal that is infinite, nothing moves.
    """
    start, (ahead, error) = log_d, looking_at_itself(problem, log_d, mean)
    first = error
    for _ in range(moves):
        moving = error > goal
        if not bool(moving.any()):
            break
        log_d = log_d + torch.where(moving[:, None], _FARTHER * ahead, 0.0)
        ahead, error = looking_at_itself(problem, log_d, mean)
    fair = (error <= first) | (error <= _FAIR)
    return torch.where(fair[:, None], log_d, start), torch.where(fair, error, first)
