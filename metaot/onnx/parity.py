"""The comparison of files with their model: on test problems where there are some, in new batch sizes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from metaot.amortize import AmortizedPotential
from metaot.amortize.costs import CostPotential, encode
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.brenier import SampleProblem
from metaot.data import Palettes, Planted, ProblemSet, SampleSet, SnapshotSet, middle, source_from_json
from metaot.data.drawings import drawn_images
from metaot.data.images import as_weights
from metaot.geometry import Dense, Grid
from metaot.models.data_set import DataSetPotential
from metaot.onnx.maps import OnnxMap
from metaot.onnx.runtime import OnnxModel
from metaot.onnx.semidiscrete import OnnxSemiDiscrete
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

Potential = AmortizedPotential | UniversalPotential | CostPotential
"""A model of potentials that is exported."""

_BATCHES = (1, 2, 5, 16)
_IMAGES = ((1, 28, 28), (2, 16, 16), (3, 40, 25), (2, 64, 64))
"""Batches of images for models of any size."""
_CLOUDS = ((1, 512, 512), (2, 300, 512), (5, 512, 40))
"""Batches, and samples of x and y, for models of maps."""
_WITH_COSTS = ((1, 3, 5), (2, 30, 300), (3, 60, 100), (2, 90, 40))
"""Batches, sources and targets, for models that read costs."""
_OF_COSTS = 1e-4
"""The tolerance for models that read costs: these are large in units of eps, for float32."""
_FORBIDDEN = 0.05
"""The share of forbidden pairs in some of them."""
_TARGET, _STEPS, _LARGE = 1e-3, 200, 2**19
"""The L1 error to which steps are counted; most of them; and entries of a plan from which on only one is made."""


@final
@dataclass(frozen=True)
class Parity:
    """The largest difference from torch, in `unit`, and how many step counts differ."""

    difference: float
    steps: int
    problems: int
    data: str
    unit: str = "potentials' range"
    tolerance: float = 1e-5

    @property
    def holds(self) -> bool:
        """Whether the file agrees with torch."""
        return self.difference <= self.tolerance and self.steps == 0

    def __str__(self) -> str:
        words = "no steps" if self.steps == 0 else f"{self.steps} step counts"
        return (
            f"differs from torch by {self.difference:.1e} of the {self.unit}, {words} differ "
            f"({self.problems} {self.data})"
        )


@torch.no_grad()
def parity(model: OnnxModel, predictor: Potential, problems: list[Problem], data: str) -> Parity:
    """Compare a file with its model; steps of plain Sinkhorn to an L1 error of 1e-3."""
    difference, steps = 0.0, 0
    for problem in problems:
        expected, found = predictor.predict(problem), model.predict(problem)
        for mine, theirs in ((expected.f, found.f), (expected.g, found.g)):
            difference = max(difference, largest((mine - theirs).abs(), mine.amax(-1) - mine.amin(-1)))
        steps += int((_steps(problem, expected) != _steps(problem, found)).sum())
    tolerance = _OF_COSTS if isinstance(predictor, CostPotential) else Parity.tolerance
    return Parity(difference, steps, sum(len(problem.a) for problem in problems), data, tolerance=tolerance)


@torch.no_grad()
def parity_of_maps(model: OnnxMap, predictor: AmortizedMap, problems: list[SampleProblem], data: str) -> Parity:
    """Compare pushed and pulled points of two files with those of their model."""
    difference = 0.0
    for problem in problems:
        x, y = problem.x, problem.y
        expected, found = predictor.stages(problem)[-1], model.predict(x.numpy(), y.numpy())
        pushed, pulled = expected.push(x), expected.pull(y)
        for mine, theirs in ((pushed, found.push(x.numpy())), (pulled, found.pull(y.numpy()))):
            distance = (mine - torch.from_numpy(theirs)).norm(dim=-1)
            difference = max(difference, largest(distance, mine.var(-2).sum(-1).sqrt()))
    count = sum(len(problem.x) for problem in problems)
    return Parity(difference, 0, count, data, unit="points' deviation", tolerance=1e-4)


@torch.no_grad()
def parity_of_data_set(model: OnnxSemiDiscrete, torch_model: DataSetPotential) -> Parity:
    """Compare a file with its data set: where points near the data are sent, and their potential."""
    generator, data = torch.Generator().manual_seed(4), torch_model.data
    scale, difference = data.std(), 0.0
    for batch in _BATCHES:
        rows = torch.randint(len(data), (batch,), generator=generator)
        x = data[rows] + scale * torch.randn(batch, data.shape[1], generator=generator, dtype=data.dtype)
        x = x / x.norm(dim=1, keepdim=True) if torch_model.cost == "sphere" else x
        f, scores = torch_model.potential(x), torch_model.scores(x)
        size = scores.amax(1) - scores.amin(1) + scale.square()
        difference = max(
            difference, largest((torch.from_numpy(model.potential(x.numpy())) - f).abs()[:, None], size)
        )
        if torch_model.eps:
            found = torch.from_numpy(model.map(x.numpy()))
            difference = max(difference, largest((found - torch_model.conditional(x) @ data).abs(), scale))
    tolerance = 1e-4 if data.dtype == torch.float32 else Parity.tolerance
    return Parity(difference, 0, sum(_BATCHES), "points near the data", unit="scores' range", tolerance=tolerance)


def largest(difference: Tensor, size: Tensor) -> float:
    """Return the largest entry of differences, *batch k, as a share of a size, *batch; infinite for NaN."""
    return float((difference.amax(-1) / size.clamp_min(1e-12)).nan_to_num(torch.inf).max())


def _steps(problem: Problem, guess: DualPotentials) -> Tensor:
    n, m = problem.geometry.shape
    most = _STEPS if n * m <= _LARGE else 1
    return solve(problem, init=guess, solver=Sinkhorn(accelerated=False), tol=_TARGET, max_steps=most).steps


def drawn_problems(
    predictor: Potential,
    card: dict[str, Any],
    data_dir: Path | None = None,
    batches: Sequence[int] = _BATCHES,
) -> tuple[list[Problem], str]:
    """Return batches of problems, and where they are from.

    For a model on one geometry at the middle, the lowest, the highest and mixed temperatures; for images of any
    size at mixed ones. For a model that reads costs, random ones, and a few of its test data.
    """
    generator = torch.Generator().manual_seed(4)
    if isinstance(predictor, CostPotential):
        return _with_costs(predictor, generator, *_recorded_split(card, data_dir))
    low, high = predictor.eps

    def mixed(batch: int) -> Tensor:
        return low * (high / low) ** torch.rand(batch, generator=generator, dtype=torch.float64)

    problems = []
    if isinstance(predictor, UniversalPotential):
        for batch, height, width in _IMAGES:
            images = drawn_images(2 * batch, max(height, width), generator)[:, :height, :width] + 1e-6
            a, b = as_weights(images.double()).split(batch)
            problems.append(Problem(a, b, Grid(height, width), mixed(batch)))
        return problems, "drawn pairs"
    split, data = _recorded_split(card, data_dir)
    for batch, eps in zip(batches, (middle(predictor.eps), low, high, None), strict=False):
        if isinstance(split, ProblemSet):
            a, b = replace(split, batch=batch).weights(generator)
        else:
            a, b = (_random_weights(batch, size, generator) for size in predictor.geometry.shape)
        problems.append(Problem(a, b, predictor.geometry, mixed(batch) if eps is None else eps))
    return problems, data


def _with_costs(
    predictor: CostPotential, generator: torch.Generator, split: object, data: str
) -> tuple[list[Problem], str]:
    problems = [_distances(predictor, generator, *sizes) for sizes in _WITH_COSTS]
    if not isinstance(split, ProblemSet):
        return problems, data
    try:
        drawn = [replace(split, batch=batch).sample(generator) for batch in (1, 4)]
    except ImportError:
        return problems, "random problems: an extra that the test data need is not here"
    return [*problems, *drawn], f"{data}, and random ones"


def _distances(predictor: CostPotential, generator: torch.Generator, *sizes: int) -> Problem:  # batch, n, m
    """Draw distances in the plane, a few of them forbidden, with costs that differ as in the training.

    Of several problems the last one has equal weights.
    """
    batch, *atoms = sizes
    points = [torch.rand(batch, count, 2, generator=generator, dtype=torch.float64) for count in atoms]
    a, b = (torch.rand(batch, count, generator=generator, dtype=torch.float64) ** 2 + 1e-3 for count in atoms)
    if batch > 1:
        a[-1], b[-1] = 1, 1
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    C = torch.cdist(*points)
    if batch > 2:
        forbidden = torch.rand(C.shape, generator=generator) < _FORBIDDEN
        forbidden[:, 0] = forbidden[:, :, 0] = False
        C[forbidden] = torch.inf
    low, high = predictor.model.spreads.tolist()
    middle = math.sqrt(max(low, 1.0) * min(high, 100.0))
    eps = encode(Problem(a, b, Dense(C), 1.0), predictor.model).spread / middle
    return Problem(a, b, Dense(C), eps)


def drawn_clouds(
    predictor: AmortizedMap, card: dict[str, Any], data_dir: Path | None = None
) -> tuple[list[SampleProblem], str]:
    """Return problems of the model's test data, of embedded data where these are missing; and their name."""
    split, data = _recorded_split(card, data_dir)
    if split is None:
        source = Palettes() if predictor.dim == 3 else Planted(dim=predictor.dim)
        split, data = source.split("test"), f"test problems of {type(source).__name__}"
    assert isinstance(split, SampleSet)
    generator = torch.Generator().manual_seed(4)
    problems = []
    for batch, n, m in _CLOUDS:
        drawn = replace(split, batch=batch, samples=max(n, m)).sample(generator)
        problems.append(SampleProblem(drawn.x[:, :n], drawn.y[:, :m]))
    return problems, data


def _recorded_split(
    card: dict[str, Any], data_dir: Path | None
) -> tuple[ProblemSet | SampleSet | SnapshotSet | None, str]:
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
