"""The comparison of a file with its model: on test problems where there are some, in new batch sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from metaot.amortize import AmortizedPotential
from metaot.amortize.universal import UniversalPotential
from metaot.data import ProblemSet, SampleSet, middle, source_from_json
from metaot.data.drawings import drawn_images
from metaot.data.images import as_weights
from metaot.geometry import Grid
from metaot.onnx.runtime import OnnxModel
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

TOLERANCE = 1e-5
"""The largest difference from torch's potentials, as a share of the range of each."""
_BATCHES = (1, 2, 5, 16)
_IMAGES = ((1, 28, 28), (2, 16, 16), (3, 40, 25), (2, 64, 64))
"""Batches of images for models of any size."""
_TARGET, _STEPS, _LARGE = 1e-3, 200, 2**19
"""The L1 error to which steps are counted; most of them; and entries of a plan from which on only one is made."""


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


@torch.no_grad()
def parity(
    model: OnnxModel, predictor: AmortizedPotential | UniversalPotential, problems: list[Problem], data: str
) -> Parity:
    """Compare a file with its model; steps of plain Sinkhorn to an L1 error of 1e-3."""
    difference, steps = 0.0, 0
    for problem in problems:
        expected, found = predictor.predict(problem), model.predict(problem)
        difference = max(difference, _difference(expected.f, found.f), _difference(expected.g, found.g))
        steps += int((_steps(problem, expected) != _steps(problem, found)).sum())
    return Parity(difference, steps, sum(len(problem.a) for problem in problems), data)


def _difference(expected: Tensor, found: Tensor) -> float:
    size = expected.amax(-1) - expected.amin(-1)
    worst = ((expected - found).abs().amax(-1) / size.clamp_min(1e-12)).max()
    return float(worst.nan_to_num(torch.inf))


def _steps(problem: Problem, guess: DualPotentials) -> Tensor:
    n, m = problem.geometry.shape
    most = _STEPS if n * m <= _LARGE else 1
    return solve(problem, init=guess, solver=Sinkhorn(accelerated=False), tol=_TARGET, max_steps=most).steps


def drawn_problems(
    predictor: AmortizedPotential | UniversalPotential,
    card: dict[str, Any],
    data_dir: Path | None = None,
    batches: Sequence[int] = _BATCHES,
) -> tuple[list[Problem], str]:
    """Return batches of problems, and where they are from.

    For a model on one geometry at the middle, the lowest, the highest and mixed temperatures; for images of any
    size at mixed ones.
    """
    generator, (low, high) = torch.Generator().manual_seed(4), predictor.eps

    def mixed(batch: int) -> Tensor:
        return low * (high / low) ** torch.rand(batch, generator=generator, dtype=torch.float64)

    problems = []
    if isinstance(predictor, UniversalPotential):
        for batch, height, width in _IMAGES:
            images = drawn_images(2 * batch, max(height, width), generator)[:, :height, :width] + 1e-6
            a, b = as_weights(images.double()).split(batch)
            problems.append(Problem(a, b, Grid(height, width), mixed(batch)))
        return problems, "drawn pairs"
    split, data = recorded_split(card, data_dir)
    for batch, eps in zip(batches, (middle(predictor.eps), low, high, None), strict=False):
        if isinstance(split, ProblemSet):
            a, b = replace(split, batch=batch).weights(generator)
        else:
            a, b = (_random_weights(batch, size, generator) for size in predictor.geometry.shape)
        problems.append(Problem(a, b, predictor.geometry, mixed(batch) if eps is None else eps))
    return problems, data


def recorded_split(card: dict[str, Any], data_dir: Path | None) -> tuple[ProblemSet | SampleSet | None, str]:
    """Return the test data of a checkpoint's recipe and its name; None where that is not here."""
    try:
        source = source_from_json(card["recipe"]["data"])
        return source.split("test", data_dir), f"test problems of {type(source).__name__}"
    except (KeyError, TypeError, FileNotFoundError, ImportError):
        return None, "random problems: no test data here"


def _random_weights(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw weights of which half are zero."""
    weights = torch.rand(batch, size, generator=generator, dtype=torch.float64)
    weights = weights * (weights >= weights.median(-1, keepdim=True).values)
    return weights / weights.sum(-1, keepdim=True)
