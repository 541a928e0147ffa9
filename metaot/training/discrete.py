"""Discrete problems: a network predicts potentials, on one geometry or on all grids."""

from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.amortize import AmortizedPotential, StagedPredictor
from metaot.amortize.universal import UniversalPotential
from metaot.data import ProblemSet, Split, middle
from metaot.geometry import Grid
from metaot.models import PotentialModel, single
from metaot.models.universal import UniversalNetwork
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.tools.plan import displacement_interpolation
from metaot.training.recipe import Recipe
from metaot.training.task import Task
from metaot.training.validation import Validation

_PAIRS = 4
"""How many validation pairs a picture shows."""


class DiscreteTask(Task[Problem, StagedPredictor]):
    """Problems on one geometry, at temperatures of a range."""

    counts_cold = True
    """Whether validation compares with the steps of plain Sinkhorn from zeros."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.like = torch.zeros((), dtype=torch.float64, device=device)
        self.problems = _problem_set(recipe, "train", data_dir)
        held_out = _problem_set(recipe, "validation", data_dir)
        eps = recipe.validation_eps or middle(self.problems.eps)
        drawn = replace(held_out, batch=recipe.validation_batch, eps=(eps, eps))
        self.validation = Validation.of(drawn, self.like, counts_cold=self.counts_cold)
        self.geometry = self.validation.problem.geometry

    def new_model(self) -> nn.Module:
        recipe, problems = self.recipe, self.problems
        model = single(recipe.model.for_geometry(problems.geometry, problems.eps, **recipe.model_settings))
        samples = [self.drawn(recipe.steps + k) for k in range(8)]
        model.standardise(torch.cat([p.a for p in samples]).float(), torch.cat([p.b for p in samples]).float())
        return model

    def predictor(self, model: nn.Module) -> StagedPredictor:
        assert isinstance(model, PotentialModel)
        return AmortizedPotential(model, self.geometry, self.problems.eps)

    def problem(self, step: int) -> Problem:
        return self.drawn(step).to(self.like, self.geometry)

    def drawn(self, step: int) -> Problem:
        """Draw the problems of a step where the data is."""
        return self.problems.sample(torch.Generator().manual_seed(self.recipe.seed * 2**40 + step))

    def loss(self, predictor: StagedPredictor, problem: Problem) -> Tensor:
        losses = [self.recipe.objective(problem, f).mean() for f in predictor.stages(problem)]
        return torch.stack(losses).sum()

    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], dict[str, Tensor]]:
        figures, guess = self.validation.measure(predictor)
        return figures, _pictures(self.validation, guess)


@final
class UniversalTask(DiscreteTask):
    """Problems on the plane, on another grid in each step."""

    def new_model(self) -> UniversalNetwork:
        return UniversalNetwork(**self.recipe.model_settings)

    def predictor(self, model: nn.Module) -> UniversalPotential:
        assert isinstance(model, UniversalNetwork)
        return UniversalPotential(model, self.problems.eps)

    def problem(self, step: int) -> Problem:
        return self.drawn(step).to(self.like)


def _problem_set(recipe: Recipe, name: Split, data_dir: Path | None) -> ProblemSet:
    problems = recipe.data.split(name, data_dir)
    if not isinstance(problems, ProblemSet):
        raise ValueError(f"the recipe {recipe.name} learns potentials: {recipe.data} has no weights on a geometry")
    return problems


def _pictures(validation: Validation, guess: DualPotentials) -> dict[str, Tensor]:
    """Show pairs of images with predicted and exact potential and the mass that both move halfway."""
    grid = validation.problem.geometry
    if not isinstance(grid, Grid) or len(grid.sizes) != 2:
        return {}
    problem, exact, guess = validation.problem[:_PAIRS], validation.exact[:_PAIRS], guess[:_PAIRS]
    centred = [f - (f * problem.a).sum(-1, keepdim=True) for f in (guess.f, exact.f)]
    low, high = centred[1].amin(-1, keepdim=True), centred[1].amax(-1, keepdim=True)
    halves = [displacement_interpolation(problem, potentials, 0.5) for potentials in (guess, exact)]
    columns = [_ink(problem.a), _ink(problem.b), *((f - low) / (high - low) for f in centred)]
    columns += [_ink(half) for half in halves]
    picture = _tiled(torch.stack(columns, 1).clamp(0, 1), grid.sizes)
    return {"a, b | f predicted, f exact | halfway: predicted, exact": picture}


def _ink(weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    return 1 - weights / weights.amax(-1, keepdim=True)


def _tiled(images: Float[Tensor, "rows columns n"], sizes: tuple[int, ...]) -> Float[Tensor, "height width"]:
    """Lay images out in rows, three times their size, with a grey line between them."""
    images = images.reshape(*images.shape[:2], *sizes).repeat_interleave(3, 2).repeat_interleave(3, 3)
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.5)
    return images.movedim(1, 2).flatten(2, 3).flatten(0, 1).float().cpu()
