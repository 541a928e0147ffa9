"""Continuous problems: the base of solvers that fine-tune transport maps, and `solve` for them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.arrays import wrong
from metaot.brenier import BrenierPair, BrenierPotential, Frame, Icnn, SampleProblem
from metaot.core.status import Status, how_it_went
from metaot.objectives import brenier_value
from metaot.solvers.iterate import Solver, iterate
from metaot.solvers.start import opened

_SLICES, _LEVELS, _ERROR_SAMPLES = 16, 99, 512
"""Slices, quantiles and samples from which the error is measured after each step."""


@dataclass(frozen=True)
class MapState:
    """Both networks, their dual values at the recorded steps, and the number of steps made."""

    pair: BrenierPair
    history: Float[Tensor, "batch records"]
    count: int


StateT = TypeVar("StateT", bound=MapState)


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

    def start(
        self, problem: SampleProblem, guess: BrenierPair | None, default: Icnn
    ) -> tuple[BrenierPair, Float[Tensor, "batch records"]]:
        """Return the guess, or new networks for instances where these have the larger dual value; and no history.

        Without a guess, networks have the architecture of the settings, else `default`.
        """
        icnn = guess.phi.icnn if guess is not None else self.icnn or default
        pair = new_pair(icnn, (Frame.gaussian if self.linear else Frame.identity)(problem), self.seed)
        if guess is not None:
            guess = guess.to(problem.x)
            better = brenier_value(problem, guess, tol=1e-3) > brenier_value(problem, pair, tol=1e-3)
            pair = _chosen(better, guess, pair)
        return pair, pair.phi.weights.new_full((len(pair.phi.weights), len(self.record)), torch.nan)

    def drawn(self, count: int, wanted: int, clouds: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Return the indices of `wanted` different samples of each cloud, or of all, at random for this step."""
        generator = torch.Generator().manual_seed(self.seed * 2**32 + count)
        return [torch.randperm(z.shape[1], generator=generator)[:wanted].to(z.device) for z in clouds]

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

    def value(self, problem: SampleProblem, state: StateT, which: Tensor | slice) -> Float[Tensor, "batch values"]:
        """Return the weights, in the frame of the start, followed by the history."""
        return torch.cat([weights_of(state.pair), state.history], -1)[which]


@runtime_checkable
class PairPredictor(Protocol):
    """Anything that predicts the potentials of a continuous problem."""

    def predict(self, problem: SampleProblem, /) -> BrenierPair:
        """Return a guess of the solution."""
        ...


@final
@dataclass(frozen=True)
class MapSolution:
    """The fine-tuned potentials of a batch of continuous problems.

    `error` is the sliced distance between the pushed samples and the target's, in standard deviations. `history`
    holds the exact dual values at the steps named in the solver's `record`, NaN if an instance stopped before.
    """

    problem: SampleProblem
    pair: BrenierPair
    error: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    steps: Int[Tensor, "*batch"]
    history: Float[Tensor, "*batch records"]
    solver: MapSolver

    @cached_property
    def status(self) -> Status:
        """The worst status of the batch."""
        return Status.worst(self.converged, self.error, ~self.converged)

    @cached_property
    def value(self) -> Float[Tensor, "*batch"]:
        """The dual value: a lower bound of half the squared distance between the samples."""
        return brenier_value(self.problem, self.pair)

    def transport(self) -> Float[Tensor, "*batch n d"]:
        """Return the source's samples as the map moves them."""
        return self.pair.push(self.problem.x.detach())

    def __repr__(self) -> str:
        x, y = self.problem.x, self.problem.y
        spaces = f"{x.shape[-2]} and {y.shape[-2]} samples in dimension {x.shape[-1]}"
        return f"Solution of {how_it_went(spaces, self)}"


MapStart = BrenierPair | MapSolution | PairPredictor | str
"""A start: a pair of potentials, a solution, what predicts one, or the name of a model that is shipped."""


@torch.no_grad()
def solve_map(problem: SampleProblem, *, init: object, solver: object, tol: float, max_steps: int) -> MapSolution:
    """Fine-tune a pair of potentials, or train one from scratch, for each instance of the problem.

    An instance stops when its error is at most `tol`, or after `max_steps` or `solver.steps` steps. New networks
    replace a start with a smaller dual value, instance by instance. Raises TypeError for a solver of discrete
    problems, and for an `init` that is no pair of potentials.
    """
    if not isinstance(solver, MapSolver):
        raise wrong("solver", "W2GN(...) or GaussNewton(...) for a SampleProblem, or None", solver)
    flat, batch = problem.flat(), problem.batch_shape
    state = solver.init(flat, None if init is None else _guess(problem, init))
    result = iterate(solver, flat, state, tol=tol, max_steps=min(max_steps, solver.steps))
    records = len(solver.record)
    weights, history = result.value.tensor_split([result.value.shape[-1] - records], -1)
    pair, history = with_weights(state.pair, weights).reshaped(batch), history.reshape((*batch, records))
    error, steps = result.error.reshape(batch), result.steps.reshape(batch)
    return MapSolution(problem, pair, error, error <= tol, steps, history, solver)


def _guess(problem: SampleProblem, init: object) -> BrenierPair:
    """Return a pair with one batch dimension."""
    init = opened(init)
    pair = init.predict(problem) if isinstance(init, PairPredictor) else getattr(init, "pair", init)
    if not isinstance(pair, BrenierPair):
        taken = "a BrenierPair, a MapSolution, what predicts a pair, or the name of a shipped model of maps"
        raise wrong("init", taken, init)
    for name, half in (("phi", pair.phi), ("psi", pair.psi)):
        if half.frame.scale.shape != problem.batch_shape or half.icnn.dim != problem.dim:
            raise ValueError(
                f"init.{name} is for dimension {half.icnn.dim} and the batch {tuple(half.frame.scale.shape)}, "
                f"the problem has dimension {problem.dim} and the batch {tuple(problem.batch_shape)}"
            )
    return pair.reshaped(torch.Size([problem.batch_shape.numel()]))


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
