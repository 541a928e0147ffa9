"""The one loop of all solvers: step, test every instance, drop instances that have stopped."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

ProblemT = TypeVar("ProblemT")
StateT = TypeVar("StateT")
ValueT = TypeVar("ValueT")


class Solver(ABC, Generic[ProblemT, StateT, ValueT]):
    """Settings, and a few operations on problems with one batch dimension.

    The state is all that changes: a frozen dataclass of numbers, which all instances share, and of tensors and
    the like, batch first. A solver never loops over steps or prints; only `init` and `adjust` may wait for the
    device.
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
    steps: Int[Tensor, "batch"]


_TOGETHER = 10
"""Most steps of a GPU between two tests, each of which makes the device wait."""


def iterate(
    solver: Solver[ProblemT, StateT, ValueT], problem: ProblemT, state: StateT, *, tol: float, max_steps: int
) -> Iterated[ValueT]:
    """Step until every instance has an error of at most `tol`, or has made `max_steps` steps.

    The error is tested before the first step and after each one (on a GPU, after some). An instance stops when it
    has converged or its error is NaN; when half of the batch has stopped, the rest goes on without it.
    """
    error = solver.error(problem, state)
    alive = torch.arange(len(error), device=error.device)
    running = torch.ones_like(error, dtype=torch.bool)
    stopped: list[tuple[Tensor, Tensor, Tensor, ValueT]] = []
    count = 0
    while True:
        done = running if count >= max_steps else running & ~(error > tol)
        if bool(done.any()) or len(done) == 0:
            index = alive[done]
            steps = torch.full_like(index, count)
            stopped.append((index, error[done], steps, solver.value(problem, state, done)))
            running = running & ~done
            left = int(running.sum())
            if left == 0:
                break
            if 2 * left <= len(running):
                problem, state = _part(problem, running), _part(state, running)
                alive, error, running = alive[running], error[running], running[running]
        state = solver.adjust(problem, state, error)
        together = min(_TOGETHER, 1 + count // 2) if error.is_cuda else 1
        for _ in range(min(together, max_steps - count)):
            state, count = solver.step(problem, state), count + 1
        error = solver.error(problem, state)
    indices, errors, counts, values = zip(*stopped, strict=True)
    order = torch.cat(indices).argsort()
    return Iterated(_joined(values, order), torch.cat(errors)[order], torch.cat(counts)[order])


def _part(state: Any, index: Tensor) -> Any:
    """Return the part of a problem or a state that belongs to these instances."""
    if hasattr(state, "__getitem__"):
        return state[index]
    return replace(state, **{name: _part(getattr(state, name), index) for name in _batched(state)})


def _joined(values: tuple[Any, ...], order: Tensor) -> Any:
    """Return these values, one behind the other, in another order."""
    if isinstance(values[0], Tensor):
        return torch.cat(values)[order]
    names = _batched(values[0])
    return replace(values[0], **{name: torch.cat([getattr(v, name) for v in values])[order] for name in names})


def _batched(state: Any) -> list[str]:
    """Return the names of the fields of a state that have a batch: all but numbers and None."""
    return [f.name for f in fields(state) if not isinstance(getattr(state, f.name), int | float | None)]
