"""The one loop of all solvers: step, test every instance, let those leave that are done."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Batch(Protocol):
    """A batch of something, of which a part can be taken."""

    def __getitem__(self, index: Tensor, /) -> Any: ...


ProblemT = TypeVar("ProblemT", bound=Batch)
StateT = TypeVar("StateT")
ValueT = TypeVar("ValueT")


class Solver(ABC, Generic[ProblemT, StateT, ValueT]):
    """Settings, and four operations on problems with one batch dimension.

    All that changes is in the state: a frozen dataclass of tensors, each with the batch in front. A solver
    never loops over steps, prints, or waits for the device.
    """

    @abstractmethod
    def init(self, problem: ProblemT, guess: ValueT | None) -> StateT:
        """Return the state to start from; instances whose guess is worse than none start without it."""

    @abstractmethod
    def step(self, problem: ProblemT, state: StateT) -> StateT:
        """Return the next state."""

    @abstractmethod
    def error(self, problem: ProblemT, state: StateT) -> Float[Tensor, "batch"]:
        """Return the error of the state's value, instance by instance."""

    @abstractmethod
    def value(self, problem: ProblemT, state: StateT) -> ValueT:
        """Return what the caller asked for."""


@final
@dataclass(frozen=True)
class Iterated(Generic[StateT]):
    """The state in which each instance stopped, its error there, and its number of steps."""

    state: StateT
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    steps: Int[Tensor, "batch"]


def iterate(
    solver: Solver[ProblemT, StateT, ValueT],
    problem: ProblemT,
    state: StateT,
    *,
    tol: float,
    max_steps: int,
) -> Iterated[StateT]:
    """Step until every instance has an error of at most `tol`, or has made `max_steps` steps.

    The error is tested before the first step and after each one. An instance that has converged, or whose
    error is NaN, leaves the batch in the state that it has then.
    """
    error = solver.error(problem, state)
    last_state, last_error = _map(torch.clone, state), error.clone()
    steps = torch.zeros_like(error, dtype=torch.int64)
    alive = torch.arange(len(error), device=error.device)
    for count in range(max_steps + 1):
        done = (error <= tol) | error.isnan() if count < max_steps else torch.ones_like(error, dtype=torch.bool)
        if bool(done.any()) or len(done) == 0:
            left = alive[done]
            _put(last_state, left, take(state, done))
            last_error[left], steps[left] = error[done], count
            if bool(done.all()):
                break
            alive, state, problem = alive[~done], take(state, ~done), problem[~done]
        state = solver.step(problem, state)
        error = solver.error(problem, state)
    return Iterated(last_state, last_error, last_error <= tol, steps)


def _map(change: Any, state: StateT) -> StateT:
    parts = {field.name: change(getattr(state, field.name)) for field in fields(state)}  # type: ignore[arg-type]
    return replace(state, **parts)  # type: ignore[type-var]


def take(state: StateT, index: Tensor) -> StateT:
    """Return the part of a state that belongs to these instances."""
    return _map(lambda part: part[index], state)


def _put(state: StateT, index: Tensor, part: StateT) -> None:
    for field in fields(state):  # type: ignore[arg-type]
        getattr(state, field.name)[index] = getattr(part, field.name)
