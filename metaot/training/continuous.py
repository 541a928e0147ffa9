"""Continuous problems: a hypernetwork predicts two convex potentials."""

from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from metaot.amortize.maps import AmortizedMap
from metaot.brenier import Frame, SampleProblem
from metaot.data import SampleSet, Split
from metaot.models.base import HyperNetwork
from metaot.objectives import brenier_value
from metaot.tools.recolor import recoloured_pairs
from metaot.tools.value import half_squared_distance
from metaot.training.recipe import Recipe
from metaot.training.task import Task

_SAMPLES = 500
"""Samples of each validation measure, whose exact distance is computed once."""
_SEED = 2**31 - 1
_PAIRS = 4


@final
class ContinuousTask(Task[SampleProblem, AmortizedMap]):
    """Pairs of measures given by samples."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        self.recipe = recipe
        self.like = torch.zeros((), dtype=torch.float32, device=device)
        self.problems = _sample_set(recipe, "train", data_dir)
        held_out = replace(
            _sample_set(recipe, "validation", data_dir), batch=recipe.validation_batch, samples=_SAMPLES
        )
        self.images = getattr(held_out, "images", None)
        self.held_out = held_out.sample(torch.Generator().manual_seed(_SEED)).to(self.like)
        self.distance = half_squared_distance(self.held_out)

    def new_model(self) -> HyperNetwork:
        model = self.recipe.model.for_dim(self.problems.dim, **self.recipe.model_settings).float()
        drawn = [self._drawn(self.recipe.steps + k) for k in range(8)]
        frames = [Frame.gaussian(problem) for problem in drawn]
        sources = [frame.enter(problem.x) for frame, problem in zip(frames, drawn, strict=True)]
        targets = [frame.T.enter(problem.y) for frame, problem in zip(frames, drawn, strict=True)]
        model.standardise(torch.cat(sources + targets).float())
        return model

    def predictor(self, model: nn.Module) -> AmortizedMap:
        assert isinstance(model, HyperNetwork)
        return AmortizedMap(model)

    def problem(self, step: int) -> SampleProblem:
        return self._drawn(step).to(self.like)

    def _drawn(self, step: int) -> SampleProblem:
        return self.problems.sample(torch.Generator().manual_seed(self.recipe.seed * 2**40 + step))

    def loss(self, predictor: AmortizedMap, problem: SampleProblem) -> Tensor:
        pairs = predictor.stages(problem)
        return torch.stack([self.recipe.objective(problem, pair).mean() for pair in pairs]).sum()

    @torch.no_grad()
    def measure(self, predictor: AmortizedMap) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return the dual value as a share of the exact distance between the samples, and recoloured images."""
        pair = predictor.predict(self.held_out)
        share = brenier_value(self.held_out, pair, tol=1e-3) / self.distance
        cycle = (pair.pull(pair.push(self.held_out.x)) - self.held_out.x).square().sum(-1).mean(-1)
        variance = self.held_out.x.var(-2).sum(-1)
        figures = {
            "value": share.mean().item(),
            "worst_value": share.min().item(),
            "cycle": (cycle / variance).mean().item(),
        }
        return figures, {} if self.images is None else _recoloured(predictor, self.images)


def _sample_set(recipe: Recipe, name: Split, data_dir: Path | None) -> SampleSet:
    problems: Any = recipe.data.split(name, data_dir)
    if not isinstance(problems, SampleSet):
        raise ValueError(f"the recipe {recipe.name} learns maps: {recipe.data} has no samples of measures")
    return problems


def _recoloured(predictor: AmortizedMap, images: Tensor) -> dict[str, Tensor]:
    """Show validation images with each other's palettes: source, target, pushed, and target pulled back."""
    pairs = recoloured_pairs(predictor, images[: 2 * _PAIRS])
    return {
        "source, target, source recoloured, target recoloured": pairs.movedim(1, 2).flatten(2, 3).flatten(0, 1)
    }
