"""Sinkhorn's algorithm in the log domain (algorithm 1 of Meta OT, arXiv 2206.05262; Cuturi 2013)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.objectives import dual_loss
from metaot.potentials import DualPotentials, c_transform, centred, tilted
from metaot.problem import Problem
from metaot.solvers.iterate import Solver


@final
@dataclass(frozen=True)
class SinkhornState:
    """Potentials of which g is the best for f, and the f that the next step takes: the best for g."""

    f: Float[Tensor, "batch n"]
    g: Float[Tensor, "batch m"]
    next_f: Float[Tensor, "batch n"]


@final
@dataclass(frozen=True)
class Sinkhorn(Solver[Problem, SinkhornState, DualPotentials]):
    """Alternating exact maximisation of the dual in f and in g; one step updates both.

    Of a guess, f is used. Safe at every eps in float64; in float32 errors below about 1e-7 |C|/eps are
    rounding.
    """

    def init(self, problem: Problem, guess: DualPotentials | None) -> SinkhornState:
        cold = torch.zeros_like(problem.a)
        if guess is None:
            return _state(problem, cold)
        guess = DualPotentials.from_f(problem, centred(problem.a, guess.f))
        start = DualPotentials.from_f(problem, cold)
        better = (dual_loss(problem, guess) <= dual_loss(problem, start))[:, None]
        return _state(problem, torch.where(better, guess.f, cold), torch.where(better, guess.g, start.g))

    def step(self, problem: Problem, state: SinkhornState) -> SinkhornState:
        return _state(problem, state.next_f)

    def error(self, problem: Problem, state: SinkhornState) -> Float[Tensor, "batch"]:
        """L1 error of the source marginal; the target's is exact by construction."""
        source = tilted(problem.a, (state.f - state.next_f) / expand_eps(problem.eps, state.f))
        return (source - problem.a).abs().sum(-1)

    def value(self, problem: Problem, state: SinkhornState) -> DualPotentials:
        return DualPotentials(state.f, state.g)


def _state(problem: Problem, f: Tensor, g: Tensor | None = None) -> SinkhornState:
    g = c_transform(problem, f) if g is None else g
    return SinkhornState(f, g, c_transform(problem.T, g))
