"""Wasserstein-2 generative networks (Korotin et al., arXiv 1909.13082; algorithms 2 and 5 of Meta OT).

Adam (Kingma and Ba, arXiv 1412.6980) on the weights of both networks, for a whole batch of pairs of measures at
once: they share nothing but the places in their lists of samples that a step looks at.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.objectives import Objective, brenier_value, w2gn_loss
from metaot.solvers.iterate import Solver

_DECAY = (0.9, 0.99)
_SLICES = 16


@final
@dataclass(frozen=True)
class W2gnState:
    """Both networks, Adam's moments of their weights, one behind the other, and dual values at recorded steps."""

    pair: BrenierPair
    mean: Float[Tensor, "batch both"]
    square: Float[Tensor, "batch both"]
    history: Float[Tensor, "batch records"]
    count: int


@final
@dataclass(frozen=True)
class W2gnValue:
    """What a solve gives: the weights and the recorded values; the frame is that of the start."""

    weights: Float[Tensor, "batch both"]
    history: Float[Tensor, "batch records"]


@final
@dataclass(frozen=True)
class W2GN(Solver[SampleProblem, W2gnState, Any]):
    """Descend a loss of both networks' weights; the learning rate falls as a cosine over `steps`.

    `icnn` is the architecture when there is no guess; `linear` starts such networks at the Gaussian (Bures) map
    instead of the identity. `objective` is `w2gn_loss`, the paper's, or `brenier_loss`, which needs far fewer
    steps. Each step sees `samples` of the samples, others each time. The exact dual values of `brenier_value` are
    kept at the steps named in `record`.
    """

    steps: int = 1000
    learning_rate: float = 1e-2
    samples: int = 256
    icnn: Icnn | None = None
    linear: bool = False
    objective: Objective = w2gn_loss
    record: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 2 or not self.learning_rate > 0:
            raise ValueError(
                "steps >= 1, samples >= 2 and learning_rate > 0 are needed, "
                f"got {self.steps}, {self.samples} and {self.learning_rate}"
            )

    def cold(self, problem: SampleProblem, icnn: Icnn) -> BrenierPair:
        """Return the networks to start from without a guess."""
        frame = (Frame.gaussian if self.linear else Frame.identity)(problem)
        return new_pair(icnn, frame, self.seed)

    def init(self, problem: SampleProblem, guess: BrenierPair | None) -> W2gnState:
        icnn = guess.phi.icnn if guess is not None else self.icnn or Icnn(problem.dim)
        pair = self.cold(problem, icnn)
        if guess is not None:
            guess = guess.to(problem.x)
            better = brenier_value(problem, guess, tol=1e-3) > brenier_value(problem, pair, tol=1e-3)
            pair = _chosen(better, guess, pair)
        weights = weights_of(pair)
        history = torch.full((len(weights), len(self.record)), torch.nan).to(weights)
        zeros = torch.zeros_like(weights)
        return self._recorded(problem, W2gnState(pair, zeros, zeros, history, 0))

    def step(self, problem: SampleProblem, state: W2gnState) -> W2gnState:
        gradient, count = self._gradient(problem, state), state.count + 1
        mean = torch.lerp(gradient, state.mean, _DECAY[0])
        square = torch.lerp(gradient.square(), state.square, _DECAY[1])
        normal = (mean / (1 - _DECAY[0] ** count)) / ((square / (1 - _DECAY[1] ** count)).sqrt() + 1e-8)
        rate = self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, state.count / self.steps)))
        pair = with_weights(state.pair, weights_of(state.pair) - rate * normal)
        return self._recorded(problem, replace(state, pair=pair, mean=mean, square=square, count=count))

    def adjust(self, problem: SampleProblem, state: W2gnState, error: Float[Tensor, "batch"]) -> W2gnState:
        return state

    def error(self, problem: SampleProblem, state: W2gnState) -> Float[Tensor, "batch"]:
        """Return the sliced distance of the pushed samples from the target's, in standard deviations."""
        frame = state.pair.phi.frame
        moved, wanted = (frame.T.enter(z) for z in (state.pair.push(problem.x), problem.y))
        generator = torch.Generator().manual_seed(0)
        slices = torch.randn(problem.dim, _SLICES, generator=generator, dtype=torch.float64).to(moved)
        levels = torch.linspace(0.01, 0.99, 99).to(moved)
        slices = slices / slices.norm(dim=0)
        gaps = [(z @ slices).quantile(levels, dim=-2) for z in (moved, wanted)]
        return (gaps[0] - gaps[1]).square().mean((0, 2)).sqrt()

    def value(self, problem: SampleProblem, state: W2gnState, which: Tensor | slice) -> W2gnValue:
        return W2gnValue(weights_of(state.pair)[which], state.history[which])

    def _gradient(self, problem: SampleProblem, state: W2gnState) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 2**32 + state.count)
        parts = [z[:, _some(z.shape[1], self.samples, generator).to(z.device)] for z in (problem.x, problem.y)]
        with torch.enable_grad():
            weights = weights_of(state.pair).detach().requires_grad_()
            loss = self.objective(
                SampleProblem.trusted(parts[0], parts[1], None), with_weights(state.pair, weights)
            )
            (gradient,) = torch.autograd.grad(loss.sum(), weights)
        return gradient

    def _recorded(self, problem: SampleProblem, state: W2gnState) -> W2gnState:
        if state.count not in self.record:
            return state
        value = brenier_value(problem, state.pair, tol=1e-3)
        history = state.history.clone()
        history[:, self.record.index(state.count)] = value.to(history)
        return replace(state, history=history)


def new_pair(icnn: Icnn, frame: Frame, seed: int) -> BrenierPair:
    """Return untrained networks, other ones for each instance: nearly the linear map of the frame."""
    generator, batch = torch.Generator().manual_seed(seed), frame.scale.shape
    phi, psi = (icnn.weights(generator, *batch).to(frame.m) for _ in range(2))
    return BrenierPair(BrenierPotential(icnn, phi, frame), BrenierPotential(icnn, psi, frame.T))


def weights_of(pair: BrenierPair) -> Float[Tensor, "batch both"]:
    """Return the weights of both networks, one behind the other."""
    return torch.cat([pair.phi.weights, pair.psi.weights], -1)


def with_weights(pair: BrenierPair, weights: Float[Tensor, "batch both"]) -> BrenierPair:
    """Return the pair with these weights in place of its own."""
    phi, psi = weights.chunk(2, -1)
    return BrenierPair(replace(pair.phi, weights=phi), replace(pair.psi, weights=psi))


def _some(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[:wanted]


def _chosen(better: Tensor, first: BrenierPair, second: BrenierPair) -> BrenierPair:
    """Return, instance by instance, the first pair or the second one."""
    order = torch.where(better, 0, len(better)) + torch.arange(len(better)).to(better.device)
    frames = [pair.phi.frame for pair in (first, second)]
    frame = Frame(
        *(torch.cat([getattr(f, name) for f in frames])[order] for name in ("m", "n", "U", "V", "scale"))
    )
    blank = BrenierPair(replace(first.phi, frame=frame), replace(first.psi, frame=frame.T))
    return with_weights(blank, torch.cat([weights_of(first), weights_of(second)])[order])
