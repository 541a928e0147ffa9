"""A network for every problem on the plane: any grid, any cloud, any temperature."""

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from metaot.amortize.predictor import StagedPredictor
from metaot.amortize.prepared import Twin
from metaot.geometry import Grid
from metaot.models.universal import UniversalNetwork
from metaot.models.universal.places import places
from metaot.models.universal.step import StepAlone
from metaot.problem import Problem


@final
class UniversalPotential(StagedPredictor):
    """Predicts on each `Grid` with two axes and on `Points` in the plane, with the cost "sqeuclidean".

    Units do not matter: the network sees measures of unit width. `eps` is the range of temperatures of the
    training, on the unit square; below it the prediction is worse, and `solve` replaces it where zeros are better.
    Other geometries raise ValueError.
    """

    start_passes = 2

    def __init__(self, model: UniversalNetwork, eps: tuple[float, float]) -> None:
        self.model, self.eps = model, eps
        self._twin = Twin()

    def _evaluate(self, problem: Problem) -> Iterator[Tensor] | Iterator[np.ndarray]:
        flat = problem.flat()
        if not self._alone(flat):
            return self.model.stages(flat)
        assert isinstance(flat.geometry, Grid)
        assert isinstance(flat.eps, float)
        rows, columns = (axis.numpy() for axis in flat.geometry.axes)
        a, b = (w.numpy().reshape(len(rows), -1).astype(np.float32) for w in (flat.a, flat.b))
        step = StepAlone(flat)
        return self._twin.of(self.model)((rows, columns), (a, b), flat.eps, step, self.model.passes)

    def _alone(self, flat: Problem) -> bool:
        """Tell whether this is one pair of images on a CPU, of which nobody takes derivatives."""
        if not isinstance(flat.geometry, Grid) or len(flat.a) != 1 or flat.a.device.type != "cpu":
            return False
        weight = self.model.inputs.weight
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad
        places(flat.geometry)
        return plain and isinstance(flat.eps, float) and not (flat.a.requires_grad or flat.b.requires_grad)
