"""Continuous problems: a hypernetwork predicts two convex potentials."""

from pathlib import Path
from typing import final

import torch
from torch import Tensor

from metaot.amortize.maps import AmortizedMap
from metaot.brenier import Frame, SampleProblem
from metaot.data import SampleSet
from metaot.models.base import HyperNetwork
from metaot.objectives import brenier_value
from metaot.tools.recolor import recoloured_sheet
from metaot.tools.value import half_squared_distance
from metaot.training.recipe import Recipe, Task

_SAMPLES = 500
"""Samples of each validation measure, whose exact distance is computed once."""
_PAIRS = 4


@final
class ContinuousTask(Task):
    """Pairs of measures given by samples."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        like = torch.zeros((), dtype=torch.float32, device=device)
        super().__init__(recipe, data_dir, like, SampleSet, "maps from samples of measures")
        self.images = getattr(self.held_out, "images", None)
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
        return figures, {} if self.images is None else _recoloured(predictor, self.images)


def _recoloured(predictor: AmortizedMap, images: Tensor) -> dict[str, Tensor]:
    """Show validation images with each other's palettes: source, target, pushed, and target pulled back."""
    title = "source, target, source recoloured, target recoloured"
    return {title: recoloured_sheet(predictor, images[: 2 * _PAIRS])}
