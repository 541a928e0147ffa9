"""The base of solvers that fine-tune transport maps: how they start, what they record and return."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.objectives import brenier_value
from metaot.solvers.iterate import Solver

_SLICES, _LEVELS = 16, 99
_ERROR_SAMPLES = 512
"""Samples from which the error is measured after each step."""


@dataclass(frozen=True)
class MapState:
    """Both networks, their dual values at the recorded steps, and the number of steps made."""

    pair: BrenierPair
    history: Float[Tensor, "batch records"]
    count: int


StateT = TypeVar("StateT", bound=MapState)


@final
@dataclass(frozen=True)
class MapValue:
    """The result: the weights, in the frame of the start, and the recorded values."""

    weights: Float[Tensor, "batch both"]
    history: Float[Tensor, "batch records"]


@dataclass(frozen=True)
class MapSolver(Solver[SampleProblem, StateT, Any]):
    """Fine-tune pairs of networks in at most `steps` steps.

    Without a guess, networks of the architecture `icnn` start at the identity, or with `linear` at the Gaussian
    (Bures) map. The exact dual values of `brenier_value` are kept at the steps named in `record`.
    """

    steps: int = 1000
    icnn: Icnn | None = None
    linear: bool = False
    record: tuple[int, ...] = ()
    seed: int = 0

    def cold(self, problem: SampleProblem, icnn: Icnn) -> BrenierPair:
        """Return the networks to start from without a guess."""
        frame = (Frame.gaussian if self.linear else Frame.identity)(problem)
        return new_pair(icnn, frame, self.seed)

    def start(self, problem: SampleProblem, guess: BrenierPair | None, default: Icnn) -> BrenierPair:
        """Return the guess, or the cold start for instances where that has the larger dual value.

        Without a guess, networks have the architecture of the settings, else `default`.
        """
        icnn = guess.phi.icnn if guess is not None else self.icnn or default
        pair = self.cold(problem, icnn)
        if guess is None:
            return pair
        guess = guess.to(problem.x)
        better = brenier_value(problem, guess, tol=1e-3) > brenier_value(problem, pair, tol=1e-3)
        return _chosen(better, guess, pair)

    def no_history(self, pair: BrenierPair) -> Float[Tensor, "batch records"]:
        """Return NaN for the values that will be recorded."""
        weights = pair.phi.weights
        return torch.full((len(weights), len(self.record)), torch.nan).to(weights)

    def recorded(self, problem: SampleProblem, state: StateT) -> StateT:
        """Return the state with its dual values in the history, if its step is one to record."""
        if state.count not in self.record:
            return state
        value = brenier_value(problem, state.pair, tol=1e-3)
        history = state.history.clone()
        history[:, self.record.index(state.count)] = value.to(history)
        return replace(state, history=history)

    def adjust(self, problem: SampleProblem, state: StateT, error: Float[Tensor, "batch"]) -> StateT:
        return state

    def error(self, problem: SampleProblem, state: StateT) -> Float[Tensor, "batch"]:
        """Return the sliced distance of pushed samples from the target's, in standard deviations."""
        frame, x, y = state.pair.phi.frame, problem.x[:, :_ERROR_SAMPLES], problem.y[:, :_ERROR_SAMPLES]
        moved, wanted = (frame.T.enter(z) for z in (state.pair.push(x), y))
        generator = torch.Generator().manual_seed(0)
        slices = torch.randn(problem.dim, _SLICES, generator=generator, dtype=torch.float64).to(moved)
        slices = slices / slices.norm(dim=0)
        gaps = [_quantiles(slices.mT @ z.mT) for z in (moved, wanted)]
        return (gaps[0] - gaps[1]).square().mean((1, 2)).sqrt()

    def value(self, problem: SampleProblem, state: StateT, which: Tensor | slice) -> MapValue:
        return MapValue(weights_of(state.pair)[which], state.history[which])


def new_pair(icnn: Icnn, frame: Frame, seed: int) -> BrenierPair:
    """Return untrained networks, different ones for each instance: nearly the linear map of the frame."""
    generator, batch = torch.Generator().manual_seed(seed), frame.scale.shape
    phi, psi = (icnn.weights(generator, *batch).to(frame.m) for _ in range(2))
    return BrenierPair(BrenierPotential(icnn, phi, frame), BrenierPotential(icnn, psi, frame.T))


def weights_of(pair: BrenierPair) -> Float[Tensor, "batch both"]:
    """Return the weights of phi and psi, concatenated."""
    return torch.cat([pair.phi.weights, pair.psi.weights], -1)


def with_weights(pair: BrenierPair, weights: Float[Tensor, "batch both"]) -> BrenierPair:
    """Return the pair with these weights in place of its own."""
    phi, psi = weights.chunk(2, -1)
    return BrenierPair(replace(pair.phi, weights=phi), replace(pair.psi, weights=psi))


def random_indices(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return `wanted` different indices below `count`, or all of them, at random."""
    return torch.randperm(count, generator=generator)[:wanted]


def _chosen(better: Tensor, first: BrenierPair, second: BrenierPair) -> BrenierPair:
    """Return, instance by instance, the first pair or the second one."""
    order = torch.where(better, 0, len(better)) + torch.arange(len(better)).to(better.device)
    parts = zip(first.phi.frame.parts(), second.phi.frame.parts(), strict=True)
    frame = Frame(*(torch.cat(both)[order] for both in parts))
    blank = BrenierPair(replace(first.phi, frame=frame), replace(first.psi, frame=frame.T))
    return with_weights(blank, torch.cat([weights_of(first), weights_of(second)])[order])


def _quantiles(z: Float[Tensor, "batch slices n"]) -> Float[Tensor, "batch slices levels"]:
    """Return the quantiles 0.01, 0.02 ... 0.99, without interpolation."""
    index = torch.linspace(0.01, 0.99, _LEVELS) * (z.shape[-1] - 1)
    return z.sort(-1).values[..., index.round().long().to(z.device)]
