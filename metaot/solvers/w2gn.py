"""Wasserstein-2 generative networks (Korotin et al., arXiv 1909.13082; algorithms 2 and 5 of Meta OT).

Adam (Kingma and Ba, arXiv 1412.6980) on the weights of both networks, for a batch of pairs of measures at once.
Instances share the indices of the samples that a step draws, and nothing else.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, Icnn, SampleProblem
from metaot.objectives import Objective, w2gn_loss
from metaot.solvers.maps import MapSolver, MapState, weights_of, with_weights

_DECAY = (0.9, 0.99)


@final
@dataclass(frozen=True)
class W2gnState(MapState):
    """Both networks, and Adam's moments of their weights, concatenated."""

    mean: Float[Tensor, "batch both"]
    square: Float[Tensor, "batch both"]


@final
@dataclass(frozen=True)
class W2GN(MapSolver[W2gnState]):
    """Minimise a loss of both networks' weights; the learning rate falls as a cosine over `steps`.

    `objective` is `w2gn_loss`, as in the paper, or `brenier_loss`, which needs far fewer steps. Each step draws
    `samples` of the samples anew. A few steps may make a good start worse: see `GaussNewton`.
    """

    learning_rate: float = 1e-2
    samples: int = 256
    objective: Objective = w2gn_loss

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 2 or not self.learning_rate > 0:
            raise ValueError(
                "steps >= 1, samples >= 2 and learning_rate > 0 are needed, "
                f"got {self.steps}, {self.samples} and {self.learning_rate}"
            )

    def init(self, problem: SampleProblem, guess: BrenierPair | None) -> W2gnState:
        pair, history = self.start(problem, guess, Icnn(problem.dim))
        zeros = torch.zeros_like(weights_of(pair))
        return self.recorded(problem, W2gnState(pair, history, 0, zeros, zeros))

    def step(self, problem: SampleProblem, state: W2gnState) -> W2gnState:
        gradient, count = self._gradient(problem, state), state.count + 1
        mean = torch.lerp(gradient, state.mean, _DECAY[0])
        square = torch.lerp(gradient.square(), state.square, _DECAY[1])
        normal = (mean / (1 - _DECAY[0] ** count)) / ((square / (1 - _DECAY[1] ** count)).sqrt() + 1e-8)
        rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, state.count / self.steps)))
        pair = with_weights(state.pair, weights_of(state.pair) - rate * normal)
        return self.recorded(problem, replace(state, pair=pair, mean=mean, square=square, count=count))

    def _gradient(self, problem: SampleProblem, state: W2gnState) -> Tensor:
        in_x, in_y = self.drawn(state.count, self.samples, (problem.x, problem.y))
        part = SampleProblem.trusted(problem.x[:, in_x], problem.y[:, in_y], None)
        with torch.enable_grad():
            weights = weights_of(state.pair).detach().requires_grad_()
            loss = self.objective(part, with_weights(state.pair, weights))
            (gradient,) = torch.autograd.grad(loss.sum(), weights)
        return gradient
