"""A network as the cost behind observed pairs, trained by gradients of the Fenchel-Young loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.arrays import ArrayLike, as_count, as_positive
from metaot.geometry import Dense
from metaot.geometry.checks import given, masses, require_finite, together
from metaot.geometry.costs import matrix_of_costs
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import solve


@final
@dataclass(frozen=True)
class NetworkCost:
    """A network that was trained as a cost, `Points(x, y, cost=network)`, and the loss before each step."""

    network: nn.Module
    losses: Float[Tensor, "steps"]
    potentials: DualPotentials
    """Those of the last transport problem."""


def train_cost(
    network: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: float,
    weights: ArrayLike | None = None,
    steps: int = 200,
    learning_rate: float = 1e-2,
    tol: float = 1e-4,
) -> NetworkCost:
    """Train a network c(x, y) -> matrix of costs, which it takes and returns as `Points` does, on observed pairs.

    The loss is that of `learn_cost`; its gradient in the costs is P^ - P, the plan of the pairs less that of the
    costs, which is found to `tol` from the potentials before. Adam makes `steps` steps with a learning rate that
    falls to zero. The network is changed in place; it stays in its own dtype, and transport is in float64.

    Raises ValueError for pairs that do not fit, for costs that are no matrix of numbers, and for an eps, a
    learning rate or a number of steps that is not positive.
    """
    x, y = together(given("x", x), given("y", y))
    for name, cloud in (("x", x), ("y", y)):
        require_finite(name, cloud)
    if len(x) != len(y):
        raise ValueError(f"pairs need as many x as y, got {len(x)} and {len(y)}: x[k] belongs to y[k]")
    eps, rate = as_positive("eps", eps), as_positive("learning_rate", learning_rate)
    if as_count("steps", steps) < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    w = masses("weights", weights, len(x), x.double(), ())
    losses: list[Tensor] = []
    potentials: list[DualPotentials] = []

    def surrogate() -> Tensor:
        C = matrix_of_costs("network(x, y)", network(x, y), x, len(y))
        fixed = C.detach().double()
        solution = solve(Problem(w, w, Dense(fixed), eps), init=potentials[-1] if potentials else None, tol=tol)
        potentials[:] = [solution.potentials]
        losses.append(w @ fixed.diagonal() - solution.value)
        return ((w.diag() - solution.plan()).to(C) * C).sum()

    descend(network, surrogate, steps, rate)
    return NetworkCost(network, torch.stack(losses), potentials[-1])


def descend(network: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """Make steps of Adam on the gradient of a loss, with a learning rate that falls to zero as a cosine."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
