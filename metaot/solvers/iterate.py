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
    """Settings, and a few operations on problems with one batch dimension.

    All that changes is in the state: a frozen dataclass of numbers, which all instances share, and of tensors
    or the like, with the batch in front. A solver never loops over steps or prints; only `init` and `adjust`
    may wait for the device.
    """

    @abstractmethod
    def init(self, problem: ProblemT, guess: ValueT | None) -> StateT:
        """Return the state to start from; instances whose guess is worse than none start without it."""

    @abstractmethod
    def step(self, problem: ProblemT, state: StateT) -> StateT:
        """Return the next state."""

    @abstractmethod
    def adjust(self, problem: ProblemT, state: StateT, error: Float[Tensor, "batch"]) -> StateT:
        """Return the same point in a better shape for the next steps, with the error at hand."""

    @abstractmethod
    def error(self, problem: ProblemT, state: StateT) -> Float[Tensor, "batch"]:
        """Return the error of the state's value, instance by instance."""

    @abstractmethod
    def value(self, problem: ProblemT, state: StateT, which: Tensor | slice) -> ValueT:
        """Return what the caller asked for, of these instances."""


@final
@dataclass(frozen=True)
class Iterated(Generic[ValueT]):
    """The value with which each instance stopped, its error there, and its number of steps."""

    value: ValueT
    error: Float[Tensor, "batch"]
    converged: Bool[Tensor, "batch"]
    steps: Int[Tensor, "batch"]


_TOGETHER = 10
"""Most steps of a GPU between two tests, each of which makes the device wait."""


def iterate(
    solver: Solver[ProblemT, StateT, ValueT],
    problem: ProblemT,
    state: StateT,
    *,
    tol: float,
    max_steps: int,
) -> Iterated[ValueT]:
    """Step until every instance has an error of at most `tol`, or has made `max_steps` steps.

    The error is tested before the first step and after each one (on a GPU, after some). An instance that has
    converged, or whose error is NaN, has the value that it has then; when half of the batch is done, the rest
    goes on without it.
    """
    error = solver.error(problem, state)
    alive = torch.arange(len(error), device=error.device)
    running = torch.ones_like(error, dtype=torch.bool)
    stopped: list[tuple[Tensor, ValueT, Tensor, int]] = []
    count = 0
    while True:
        done = running if count >= max_steps else running & ~(error > tol)
        if bool(done.any()) or len(done) == 0:
            stopped.append((alive[done], solver.value(problem, state, done), error[done], count))
            running = running & ~done
            left = int(running.sum())
            if left == 0:
                break
            if 2 * left <= len(running):
                problem, state = problem[running], part(state, running)
                alive, error, running = alive[running], error[running], running[running]
        state = solver.adjust(problem, state, error)
        together = min(_TOGETHER, 1 + count // 2) if error.is_cuda else 1
        for _ in range(min(together, max_steps - count)):
            state, count = solver.step(problem, state), count + 1
        error = solver.error(problem, state)
    return _assembled(stopped, tol)


def _assembled(stopped: list[tuple[Tensor, ValueT, Tensor, int]], tol: float) -> Iterated[ValueT]:
    """Put the instances, which stopped one after the other, into their order."""
    indices, values, errors, counts = zip(*stopped, strict=True)
    order = torch.cat(indices).argsort()
    error = torch.cat(errors)[order]
    steps = torch.cat([torch.full_like(i, count) for i, count in zip(indices, counts, strict=True)])[order]
    return Iterated(joined(values, order), error, error <= tol, steps)


def part(state: StateT, index: Tensor) -> StateT:
    """Return the part of a tensor or of a state that belongs to these instances."""
    if isinstance(state, Tensor):
        return state[index]  # type: ignore[return-value]
    changed = {name: value[index] for name, value in _batched(state)}
    return replace(state, **changed)  # type: ignore[type-var]


def joined(states: tuple[StateT, ...], order: Tensor) -> StateT:
    """Return these states, one behind the other, in another order."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(states)[order]  # type: ignore[arg-type, return-value]
    changed = {name: torch.cat([getattr(s, name) for s in states])[order] for name, _ in _batched(first)}
    return replace(first, **changed)  # type: ignore[type-var]


def _batched(state: Any) -> list[tuple[str, Any]]:
    """Return the fields of a state that have a batch: all but numbers and None."""
    parts = [(field.name, getattr(state, field.name)) for field in fields(state)]
    return [(name, value) for name, value in parts if not isinstance(value, int | float | None)]
