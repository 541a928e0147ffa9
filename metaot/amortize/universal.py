"""A network for every problem on the plane: any grid, any cloud, any temperature."""

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.predictor import StagedPredictor, in_shape
from metaot.amortize.prepared import Twin
from metaot.geometry import Grid
from metaot.models.universal import UniversalNetwork
from metaot.models.universal.compiled import COMPILED, Images
from metaot.models.universal.places import places
from metaot.models.universal.step import GridStep
from metaot.problem import Problem
from metaot.single import LARGEST


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

    def start_f(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        """Return f as a start for a solver: on atoms with mass, and anything elsewhere."""
        flat = problem.flat()
        if not self._without_torch(flat):
            return super().start_f(problem)
        images, stages = self._stages(flat, min(self.start_passes, self.passes), everywhere=False)
        *_, f = stages
        f *= images.eps[:, None]
        return in_shape(problem, f)

    def _evaluate(self, problem: Problem) -> Iterator[Tensor] | Iterator[np.ndarray]:
        flat = problem.flat()
        if not self._without_torch(flat):
            return self.model.stages(flat)
        images, stages = self._stages(flat, self.passes)
        return (f * images.eps[:, None] for f in stages)

    def _stages(
        self, flat: Problem, passes: int, *, everywhere: bool = True
    ) -> tuple[Images, Iterator[np.ndarray]]:
        """Look at pairs of images; return them, and every stage of f in units of eps."""
        assert isinstance(flat.geometry, Grid)
        rows, columns = (axis.double().numpy() for axis in flat.geometry.axes)
        step = GridStep(flat, flat.geometry.axis_kernels(flat.eps, LARGEST))
        images = Images((rows, columns), step.a, step.b, step.eps)
        twin, threads = self._twin.of(self.model), torch.get_num_threads()
        return images, twin(images, step, passes=passes, everywhere=everywhere, threads=threads)

    def _without_torch(self, flat: Problem) -> bool:
        """Tell whether these are images on a CPU that numpy can read, of which nobody takes derivatives."""
        if not isinstance(flat.geometry, Grid) or flat.a.device.type != "cpu":
            return False
        if (len(flat.a) != 1 and not COMPILED) or flat.a.dtype not in (torch.float32, torch.float64):
            return False
        places(flat.geometry)
        weight, given = self.model.inputs.weight, (flat.a, flat.b, flat.eps)
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad
        return plain and not any(isinstance(one, Tensor) and one.requires_grad for one in given)
