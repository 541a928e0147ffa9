"""`solve` for continuous problems: a batch of pairs of measures, fine-tuned together."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.brenier import BrenierPair, SampleProblem
from metaot.objectives import brenier_value
from metaot.solvers.iterate import iterate
from metaot.solvers.pairs import MapSolver, with_weights
from metaot.solvers.solution import Status
from metaot.solvers.w2gn import W2GN


@runtime_checkable
class PairPredictor(Protocol):
    """Anything that predicts the potentials of a continuous problem."""

    def predict(self, problem: SampleProblem) -> BrenierPair:
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
        return self.pair.push(self.problem.x)


@torch.no_grad()
def solve_map(
    problem: SampleProblem,
    *,
    init: BrenierPair | PairPredictor | None,
    solver: object,
    tol: float,
    max_steps: int,
) -> MapSolution:
    """Fine-tune a pair of potentials, or train one from scratch, for each instance of the problem.

    An instance stops when its error is at most `tol`, or after `max_steps` steps or those of the solver. The
    solver's own cold start replaces a start with a smaller dual value, instance by instance. Raises TypeError for
    a solver of discrete problems, and for an `init` that is no pair of potentials.
    """
    solver = W2GN() if solver is None else solver
    if not isinstance(solver, MapSolver):
        raise TypeError(
            f"solver must be W2GN(...) or GaussNewton(...) for a SampleProblem, or None, got {solver!r}"
        )
    if not problem.x.is_floating_point():
        raise ValueError(f"samples must be floating-point numbers, got {problem.x.dtype}")
    flat, batch = problem.flat(), problem.batch_shape
    guess = None if init is None else _guess(problem, init)
    state = solver.init(flat, guess)
    result = iterate(solver, flat, state, tol=tol, max_steps=min(max_steps, solver.steps))
    whole = with_weights(state.pair, result.value.weights).reshaped(batch)
    return MapSolution(
        problem=problem,
        pair=whole,
        error=result.error.reshape(batch),
        converged=result.converged.reshape(batch),
        steps=result.steps.reshape(batch),
        history=result.value.history.reshape((*batch, len(solver.record))),
        solver=solver,
    )


def _guess(problem: SampleProblem, init: BrenierPair | PairPredictor) -> BrenierPair:
    """Return a pair with one batch dimension."""
    pair = init.predict(problem) if isinstance(init, PairPredictor) else init
    if not isinstance(pair, BrenierPair):
        raise TypeError(f"init must be a BrenierPair, or predict one, for a SampleProblem, got {init!r}")
    for name, half in (("phi", pair.phi), ("psi", pair.psi)):
        if half.frame.scale.shape != problem.batch_shape or half.icnn.dim != problem.dim:
            raise ValueError(
                f"init.{name} is for dimension {half.icnn.dim} and the batch {tuple(half.frame.scale.shape)}, "
                f"the problem has dimension {problem.dim} and the batch {tuple(problem.batch_shape)}"
            )
    return pair.reshaped(torch.Size([problem.batch_shape.numel()]))
