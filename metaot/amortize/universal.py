"""A network for every problem on the plane: any grid, any cloud, any temperature."""

from collections.abc import Iterator
from typing import final

from torch import Tensor

from metaot.amortize.predictor import StagedPredictor
from metaot.models.universal import UniversalNetwork
from metaot.problem import Problem


@final
class UniversalPotential(StagedPredictor):
    """Predicts on each `Grid` with two axes and on `Points` in the plane, with the cost "sqeuclidean".

    Units do not matter: the network sees measures of unit width. `eps` is the range of temperatures of the
    training, on the unit square; below it the prediction is worse, and `solve` replaces it where zeros are better.
    Other geometries raise ValueError.
    """

    def __init__(self, model: UniversalNetwork, eps: tuple[float, float]) -> None:
        self.model, self.eps = model, eps

    def _evaluate(self, problem: Problem) -> Iterator[Tensor]:
        return self.model.stages(problem.flat())
