"""What is learned: potentials on one geometry or on all grids, or maps between samples."""

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from metaot.amortize import AmortizedPotential, StagedPredictor
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.brenier import Frame, SampleProblem
from metaot.data import ProblemSet, SampleSet, middle
from metaot.geometry import Grid
from metaot.models import single
from metaot.models.base import HyperNetwork
from metaot.models.grouped import grouped, totals
from metaot.models.universal import UniversalNetwork
from metaot.objectives import brenier_value
from metaot.objectives.dual import dual_value, semidual_loss
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, Solution, solve
from metaot.solvers.refine import worse_than_zeros
from metaot.tools.places import places_sheet
from metaot.tools.plan import displacement_interpolation
from metaot.tools.recolor import recoloured_sheet
from metaot.tools.value import half_squared_distance
from metaot.training.recipe import Recipe, Task

TARGET = 1e-3
"""The marginal error to which steps after a prediction are counted."""
_PAIRS = 4
"""How many validation pairs a picture shows."""
_PLACES = 2
"""How many validation problems a picture of places shows."""
_GROUPS = 512
_SAMPLES = 500
"""Samples of each validation measure, whose exact distance is computed once."""


class DiscreteTask(Task):
    """Potentials of problems on one geometry, at temperatures of a range."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        like = torch.zeros((), dtype=torch.float64, device=device)
        super().__init__(recipe, data_dir, like, ProblemSet, "potentials from weights on a geometry")
        (low, high), eps = self.problems.eps, recipe.validation_eps or middle(self.problems.eps)
        if not low <= eps <= high:
            raise ValueError(f"validation_eps must be in the range of the data, [{low:g}, {high:g}], got {eps:g}")
        self.validation: Problem = self.validation_problems(eps=(eps, eps))
        is_shared = self.problems.geometry is not None
        self.geometry = self.validation.geometry if is_shared else None
        self.exact = solve(self.validation, tol=1e-6, max_steps=5000)

    def new_model(self) -> nn.Module:
        recipe, problems = self.recipe, self.problems
        if self.geometry is None:
            raise ValueError(
                f"{recipe.model.__name__} learns problems on one geometry, and those of {recipe.data} have costs "
                "of their own: take a recipe whose model reads the costs"
            )
        model = single(recipe.model.for_geometry(problems.geometry, problems.eps, **recipe.model_settings))
        samples = [self.drawn(recipe.steps + k) for k in range(8)]
        model.standardise(torch.cat([p.a for p in samples]).float(), torch.cat([p.b for p in samples]).float())
        return model

    def predictor(self, model: Any) -> StagedPredictor:
        assert self.geometry is not None
        return AmortizedPotential(model, self.geometry, self.problems.eps)

    def problem(self, step: int) -> Problem:
        return self.drawn(step).to(self.like, self.geometry)

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], dict[str, Tensor]]:
        guess = predictor.predict(self.validation)
        steps, error = self._plain_steps(guess), marginal_error(self.validation, guess)
        figures = {
            "dual_gap": self.exact.value - dual_value(self.validation, guess),
            "marginal_error": error,
            "steps": steps,
            "steps_saved": self._cold_steps - steps,
            "replaced": worse_than_zeros(self.validation, guess, error).double(),
        }
        means = {name: values.mean().item() for name, values in figures.items()}
        return means, _pictures(self.validation, self.exact.potentials, guess)

    @cached_property
    def _cold_steps(self) -> Tensor:
        return self._plain_steps(None)

    def _plain_steps(self, init: DualPotentials | None) -> Tensor:
        """Count the steps of plain Sinkhorn from a start; None for zeros."""
        return solve(self.validation, init=init, solver=Sinkhorn(accelerated=False), tol=TARGET).steps.double()


@final
class UniversalTask(DiscreteTask):
    """Potentials of problems on the plane, on another grid in each step."""

    def new_model(self) -> UniversalNetwork:
        return UniversalNetwork(**self.recipe.model_settings)

    def predictor(self, model: Any) -> UniversalPotential:
        return UniversalPotential(model, self.problems.eps)

    def problem(self, step: int) -> Problem:
        return self.drawn(step).to(self.like)


@final
class GroupedTask(DiscreteTask):
    """Potentials of problems with few sources and many targets, learned on groups of targets, which is cheaper.

    Predictions are measured on the whole problems.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        super().__init__(recipe, data_dir, device)
        self.index, costs = grouped(self.problems.geometry, _GROUPS)
        self.costs = costs.float()

    def loss(self, predictor: StagedPredictor, problem: Problem) -> Tensor:
        single = problem.to(self.like.float(), self.geometry)
        f = next(predictor.model.stages(single, predictor.model))
        demand = totals(problem.b.cpu(), self.index, self.costs.shape[1])
        eps = torch.as_tensor(single.eps).to(single.a).expand(len(single.a))
        return semidual_loss(f, single.a, demand, self.costs, eps).mean()

    @torch.no_grad()
    def measure(self, predictor: StagedPredictor) -> tuple[dict[str, float], dict[str, Tensor]]:
        problem = self.validation
        guesses = [DualPotentials.from_f(problem, f) for f in predictor.stages(problem)]
        figures = {"steps": solve(problem, init=guesses[-1], tol=TARGET).steps.double().mean().item()}
        for guess, of in ((guesses[-1], ""), (guesses[0], "_of_the_network")):
            figures |= {f"{name}{of}": value for name, value in worth(self.exact, guess).items()}
        return figures, _pictures(problem, self.exact.potentials, guesses[-1])


@final
class ContinuousTask(Task):
    """Maps between pairs of measures given by samples: a hypernetwork predicts two convex potentials."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        like = torch.zeros((), dtype=torch.float32, device=device)
        super().__init__(recipe, data_dir, like, SampleSet, "maps from samples of measures")
        self.validation: SampleProblem = self.validation_problems(samples=_SAMPLES)
        self.distance = half_squared_distance(self.validation)

    def new_model(self) -> HyperNetwork:
        model = self.recipe.model.for_dim(self.validation.dim, **self.recipe.model_settings).float()
        drawn = [self.drawn(self.recipe.steps + k) for k in range(8)]
        frames = [Frame.gaussian(problem) for problem in drawn]
        sources = [frame.enter(problem.x) for frame, problem in zip(frames, drawn, strict=True)]
        targets = [frame.T.enter(problem.y) for frame, problem in zip(frames, drawn, strict=True)]
        model.standardise(torch.cat(sources + targets).float())
        return model

    def predictor(self, model: HyperNetwork) -> AmortizedMap:
        return AmortizedMap(model)

    @torch.no_grad()
    def measure(self, predictor: AmortizedMap) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the dual value as a share of the exact distance between the samples, and recoloured images."""
        problem = self.validation
        pair = predictor.predict(problem)
        share = brenier_value(problem, pair, tol=1e-3) / self.distance
        cycle = (pair.pull(pair.push(problem.x)) - problem.x).square().sum(-1).mean(-1)
        figures = {
            "value": share.mean().item(),
            "worst_value": share.min().item(),
            "cycle": (cycle / problem.x.var(-2).sum(-1)).mean().item(),
        }
        images = getattr(self.held_out, "images", None)
        if images is None:
            return figures, {}
        shown = recoloured_sheet(predictor, images[: 2 * _PAIRS])
        return figures, {"source, target, source recoloured, target recoloured": shown}


def worth(exact: Solution, guess: DualPotentials) -> dict[str, float]:
    """Return how far potentials are from a solution: the relative dual gap and the marginal error, in the mean."""
    gap = (exact.value - dual_value(exact.problem, guess)) / exact.value.abs()
    error = marginal_error(exact.problem, guess)
    return {"relative_dual_gap": gap.mean().item(), "marginal_error": error.mean().item()}


def _pictures(problem: Problem, exact: DualPotentials, guess: DualPotentials) -> dict[str, Tensor]:
    """Show problems with predicted and exact potential: pairs of images, or places with what they send."""
    grid = problem.geometry
    if isinstance(grid, Grid) and len(grid.sizes) == 2:
        shown = slice(_PAIRS)
        return {
            "a, b | f predicted, f exact | halfway: predicted, exact": _images(
                problem[shown], exact[shown], guess[shown]
            )
        }
    if find_spec("matplotlib") is None:
        return {}
    shown = slice(_PLACES)
    sheet = places_sheet(problem[shown], exact[shown], guess[shown])
    return {"places and what they send": torch.from_numpy(sheet)}


def _images(problem: Problem, exact: DualPotentials, guess: DualPotentials) -> Tensor:
    """Show pairs of images with predicted and exact potential and the mass that both move halfway."""
    assert isinstance(problem.geometry, Grid)
    centred = [f - (f * problem.a).sum(-1, keepdim=True) for f in (guess.f, exact.f)]
    low, high = centred[1].amin(-1, keepdim=True), centred[1].amax(-1, keepdim=True)
    halves = [displacement_interpolation(problem, potentials, 0.5) for potentials in (guess, exact)]
    a, b, *halves = (1 - w / w.amax(-1, keepdim=True) for w in (problem.a, problem.b, *halves))
    columns = torch.stack([a, b, *((f - low) / (high - low) for f in centred), *halves], 1).clamp(0, 1)
    images = columns.unflatten(-1, problem.geometry.sizes).repeat_interleave(3, 2).repeat_interleave(3, 3)
    rows = pad(images, (1, 1, 1, 1), value=0.5).movedim(1, 2)
    return rows.flatten(2, 3).flatten(0, 1).float().cpu()
