"""A network for every problem on the plane: any grid, any cloud, any temperature."""

import math
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.predictor import StagedPredictor, in_shape
from metaot.amortize.prepared import Twin
from metaot.geometry import Geometry, Grid
from metaot.models.universal import UniversalNetwork
from metaot.models.universal.compiled import COMPILED, Coarser, Images, Way
from metaot.models.universal.places import require_plane
from metaot.models.universal.step import GridStep
from metaot.problem import Problem
from metaot.single import LARGEST, Kernels

_SPACING, _FEWEST = 1.1, 64
"""Of axes along which starts are predicted for every second point: how far apart these are at most, in roots of
eps, below which potentials have no detail; and how many points there are at least."""

_ENOUGH = 0.007
"""Share of the mass that plans may miss when a start is made of them: from there a solver is as quick."""


@final
class UniversalPotential(StagedPredictor):
    """Predicts on each `Grid` with two axes and on `Points` in the plane, with the cost "sqeuclidean".

    Units do not matter: the network sees measures of unit width. `eps` is the range of temperatures of the
    training, on the unit square; below it the prediction is worse, and `solve` replaces it where zeros are better.
    Other geometries raise ValueError.
    """

    start_passes = 2
    coarse_passes = 5
    """The same on a coarser grid, where passes are cheap: so many are made only while plans miss much.

    They do not count as `passes`, of which there may be fewer; without any there, none is made here.
    """

    def __init__(self, model: UniversalNetwork, eps: tuple[float, float]) -> None:
        self.model, self.eps = model, eps
        self._twin = Twin()

    def start_f(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        """Return f as a start for a solver, which may overwrite it: on atoms with mass, and anything elsewhere.

        Where the grid is finer than the potentials have detail, for eps, it is predicted on a coarser one.
        """
        flat = problem.flat()
        if not self._without_torch(flat):
            return super().start_f(problem)
        step = _grid_step(flat)
        if COMPILED and step.kernels is not None:
            f = self._compiled_start(flat, step, step.kernels)
        else:
            f = self._start(flat)
        f *= step.eps[:, None]
        return in_shape(problem, f)

    def _start(self, flat: Problem) -> np.ndarray:
        """Return f in units of eps."""
        _, stages = self._stages(flat, min(self.start_passes, self.passes))
        *_, f = stages
        return f

    def _compiled_start(self, flat: Problem, step: GridStep, kernels: Kernels) -> np.ndarray:
        """Do the same on atoms with mass, in one call."""
        coarser = _coarser(flat)
        if coarser is None:
            way = Way(kernels, min(self.start_passes, self.passes))
        else:
            way = Way(kernels, self.coarse_passes if self.passes else 0, _ENOUGH, coarser)
        twin, images = self._twin.of(self.model), _images(flat.geometry, step)
        f, lost = twin.start(images, way, threads=torch.get_num_threads())
        if len(lost):
            f[lost] = self._start(flat[torch.from_numpy(lost)])
        return f

    def _evaluate(self, problem: Problem) -> Iterator[Tensor] | Iterator[np.ndarray]:
        flat = problem.flat()
        if not self._without_torch(flat):
            return self.model.stages(flat)
        step, stages = self._stages(flat, self.passes)
        return (f * step.eps[:, None] for f in stages)

    def _stages(self, flat: Problem, passes: int) -> tuple[GridStep, Iterator[np.ndarray]]:
        """Return what makes steps for pairs of images, and every stage of f in units of eps."""
        step = _grid_step(flat)
        twin, threads = self._twin.of(self.model), torch.get_num_threads()
        return step, twin(_images(flat.geometry, step), step, passes=passes, threads=threads)

    def _without_torch(self, flat: Problem) -> bool:
        """Tell whether these are images on a CPU that numpy can read, of which nobody takes derivatives."""
        if not isinstance(flat.geometry, Grid) or flat.a.device.type != "cpu":
            return False
        if (len(flat.a) != 1 and not COMPILED) or flat.a.dtype not in (torch.float32, torch.float64):
            return False
        require_plane(flat.geometry)
        weight, given = self.model.inputs.weight, (flat.a, flat.b, flat.eps)
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad
        return plain and not any(isinstance(one, Tensor) and one.requires_grad for one in given)


def _grid_step(flat: Problem) -> GridStep:
    """Return what makes steps for pairs of images."""
    return GridStep(flat, flat.geometry.axis_kernels(flat.eps, LARGEST))


def _images(grid: Geometry, step: GridStep) -> Images:
    return Images(_axes(grid), step.a, step.b, step.eps)


def _axes(grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(grid, Grid)
    rows, columns = (axis.double().numpy() for axis in grid.axes)
    return rows, columns


def _coarser(flat: Problem) -> Coarser | None:
    """Return the grid of every second point, where that has all the detail of the potentials."""
    grid, eps = flat.geometry, float(flat.eps.min()) if isinstance(flat.eps, Tensor) else flat.eps
    assert isinstance(grid, Grid)
    widest = _SPACING * math.sqrt(eps)
    by = tuple(
        2 if 2 * spacing <= widest and size >= _FEWEST else 1
        for spacing, size in zip(grid.spacings, grid.sizes, strict=True)
    )
    if max(by) == 1:
        return None
    coarse = grid.coarsened(by)
    kernels, lifts = coarse.grid.axis_kernels(flat.eps, LARGEST), coarse.lifts.at(flat.eps, LARGEST)
    assert kernels is not None  # costs there are smaller
    assert lifts is not None
    return Coarser(_axes(coarse.grid), kernels, lifts, by)
