"""The one loop, with a solver whose steps can be counted by hand: x becomes rate x."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from metaot.solvers.iterate import Solver, iterate


@dataclass(frozen=True)
class Rates:
    rate: Tensor

    def __getitem__(self, index: Tensor) -> "Rates":
        return Rates(self.rate[index])


@dataclass(frozen=True)
class Number:
    x: Tensor


@dataclass(frozen=True)
class Shrink(Solver[Rates, Number, Tensor]):
    """Note the size of the batch at each step."""

    batches: list[int] = field(default_factory=list)

    def init(self, problem: Rates, guess: Tensor | None) -> Number:
        return Number(torch.ones_like(problem.rate) if guess is None else guess)

    def step(self, problem: Rates, state: Number) -> Number:
        self.batches.append(len(state.x))
        return Number(problem.rate * state.x)

    def adjust(self, problem: Rates, state: Number, error: Tensor) -> Number:
        return state

    def error(self, problem: Rates, state: Number) -> Tensor:
        return state.x.abs()

    def value(self, problem: Rates, state: Number, which: Tensor | slice) -> Tensor:
        return state.x[which]


RATES = Rates(torch.tensor([0.1, 0.5, 1.0, 0.0, torch.nan, 0.5], dtype=torch.float64))


def run(tol: float, max_steps: int):
    solver = Shrink()
    return solver, iterate(solver, RATES, solver.init(RATES, None), tol=tol, max_steps=max_steps)


def test_each_instance_stops_on_its_own():
    solver, result = run(0.02, 20)
    assert result.steps.tolist() == [2, 6, 20, 1, 1, 6]
    assert result.converged.tolist() == [True, True, False, True, False, True]
    assert solver.batches == [6, 6] + [3] * 4 + [1] * 14, "when half of them are done, they leave"


def test_state_and_error_are_those_at_the_last_step():
    _, result = run(0.02, 20)
    expected = torch.tensor([0.1**2, 0.5**6, 1, 0, torch.nan, 0.5**6])
    torch.testing.assert_close(result.value, expected, equal_nan=True)
    torch.testing.assert_close(result.error, expected, equal_nan=True)


def test_the_error_is_tested_before_the_first_step():
    solver, result = run(1.0, 20)
    assert result.steps.tolist() == [0] * 6
    assert bool(result.converged.all())
    assert solver.batches == []


@pytest.mark.parametrize("max_steps", [0, 1, 3])
def test_no_instance_makes_more_than_max_steps(max_steps):
    solver, result = run(1e-30, max_steps)
    assert len(solver.batches) == max_steps
    assert int(result.steps.max()) == max_steps
    assert result.converged.tolist() == [False, False, False, max_steps > 0, False, False]


def test_converged_at_the_last_step_is_converged():
    _, result = run(0.5, 1)
    assert result.converged.tolist() == [True, True, False, True, False, True]


def test_an_empty_batch_takes_no_step():
    solver, nobody = Shrink(), RATES[torch.tensor([], dtype=torch.int64)]
    result = iterate(solver, nobody, solver.init(nobody, None), tol=0.1, max_steps=5)
    assert result.steps.shape == (0,)
    assert solver.batches == []


def test_the_start_is_not_changed():
    solver, start = Shrink(), Number(torch.ones(6))
    iterate(solver, RATES, start, tol=0.01, max_steps=3)
    assert start.x.tolist() == [1] * 6
