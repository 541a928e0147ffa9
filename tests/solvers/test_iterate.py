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


def test_each_instance_stops_on_its_own_with_its_value_there():
    solver, result = run(0.02, 20)
    assert result.steps.tolist() == [2, 6, 20, 1, 1, 6]
    assert solver.batches == [6, 6] + [3] * 4 + [1] * 14, "when half of them are done, they leave"
    expected = torch.tensor([0.1**2, 0.5**6, 1, 0, torch.nan, 0.5**6])
    torch.testing.assert_close(result.value, expected, equal_nan=True)
    torch.testing.assert_close(result.error, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("tol", "max_steps", "made"),
    [
        (1.0, 20, 0),  # the error is tested before the first step
        (0.5, 1, 1),  # and after the last one
        (1e-30, 0, 0),
        (1e-30, 3, 3),
    ],
)
def test_no_instance_makes_more_steps_than_it_needs_or_than_max_steps(tol, max_steps, made):
    solver, result = run(tol, max_steps)
    assert len(solver.batches) == int(result.steps.max()) == made


def test_an_empty_batch_takes_no_step():
    solver, nobody = Shrink(), RATES[torch.tensor([], dtype=torch.int64)]
    result = iterate(solver, nobody, solver.init(nobody, None), tol=0.1, max_steps=5)
    assert result.steps.shape == (0,)
    assert solver.batches == []
