"""Whether a file says what the model says: on test problems where there are some, in new batch sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from metaot.amortize import AmortizedPotential
from metaot.data import ProblemSet, middle, source_from_json
from metaot.onnx.runtime import OnnxModel
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

TOLERANCE = 1e-5
"""How far potentials may be from torch's, as a share of the range of each."""

_BATCHES = (1, 2, 5, 16)
Weights = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""batch -> (a, b)."""

_TARGET = 1e-3
"""The L1 error to which steps are counted."""


@final
@dataclass(frozen=True)
class Parity:
    """The largest difference of a potential as a share of its range, and how many step counts differ."""

    difference: float
    steps: int
    problems: int
    data: str

    @property
    def holds(self) -> bool:
        """Whether the file agrees with torch."""
        return self.difference <= TOLERANCE and self.steps == 0

    def __str__(self) -> str:
        words = "no steps" if self.steps == 0 else f"{self.steps} step counts"
        return (
            f"potentials differ from torch by {self.difference:.1e} of their range, {words} differ "
            f"({self.problems} {self.data})"
        )


_STEPS, _LARGE = 200, 2**19
"""Steps that are counted at most; and entries of a plan from which on one is, for they take long."""


def parity(model: OnnxModel, predictor: AmortizedPotential, problems: list[Problem], data: str) -> Parity:
    """Compare a file with its model; steps of plain Sinkhorn to an L1 error of 1e-3."""
    difference, steps = 0.0, 0
    for problem in problems:
        expected, found = predictor.predict(problem), model.predict(problem)
        difference = max(difference, _difference(expected.f, found.f), _difference(expected.g, found.g))
        steps += int((_steps(problem, expected) != _steps(problem, found)).sum())
    return Parity(difference, steps, sum(len(problem.a) for problem in problems), data)


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    size = expected.amax(-1) - expected.amin(-1)
    worst = ((expected - found).abs().amax(-1) / size.clamp_min(1e-12)).max()
    return float(worst.nan_to_num(torch.inf))


def _steps(problem: Problem, guess: DualPotentials) -> torch.Tensor:
    n, m = problem.geometry.shape
    most = _STEPS if n * m <= _LARGE else 1
    return solve(problem, init=guess, solver=Sinkhorn(accelerated=False), tol=_TARGET, max_steps=most).steps


def drawn_problems(
    predictor: AmortizedPotential,
    card: dict[str, Any],
    data_dir: Path | None,
    batches: Sequence[int] = _BATCHES,
) -> tuple[list[Problem], str]:
    """Return batches at the middle, the lowest, the highest and mixed temperatures; and where they are from."""
    generator = torch.Generator().manual_seed(4)
    low, high = predictor.eps
    temperatures = (middle(predictor.eps), low, high, None)
    weights, data = _weights(predictor, card, data_dir, generator)
    problems = []
    for batch, eps in zip(batches, temperatures, strict=False):
        a, b = weights(batch)
        mixed = low * (high / low) ** torch.rand(batch, generator=generator, dtype=torch.float64)
        problems.append(Problem(a, b, predictor.geometry, mixed if eps is None else eps))
    return problems, data


def _weights(
    predictor: AmortizedPotential, card: dict[str, Any], data_dir: Path | None, generator: torch.Generator
) -> tuple[Weights, str]:
    """Return what draws weights, and where they are from."""
    try:
        source = source_from_json(card["recipe"]["data"])
        split = source.split("test", data_dir)
    except (KeyError, TypeError, FileNotFoundError):
        return (lambda batch: _random_weights(predictor, batch, generator)), "random problems: no test data here"
    assert isinstance(split, ProblemSet)
    name = f"test problems of {type(source).__name__}"
    return (lambda batch: replace(split, batch=batch).weights(generator)), name


def _random_weights(
    predictor: AmortizedPotential, batch: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw weights of which half are zero."""
    n, m = predictor.geometry.shape
    a, b = (torch.rand(batch, size, generator=generator, dtype=torch.float64) for size in (n, m))
    a, b = (weights * (weights >= weights.median(-1, keepdim=True).values) for weights in (a, b))
    return a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
