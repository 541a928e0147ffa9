"""Colour transfer between pictures: a map between palettes, applied pixel by pixel."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from metaot.amortize.maps import MapPredictor
from metaot.brenier import BrenierPair, BrenierPotential, Icnn, SampleProblem
from metaot.pictures import moved, palette, pillow
from metaot.solvers import GaussNewton, solve

if TYPE_CHECKING:
    from PIL.Image import Image


def recolored(
    source: "Image", target: "Image", predictor: MapPredictor, *, steps: int = 0, reverse: bool = False
) -> tuple["Image", "Image | None"]:
    """Return the source in the target's palette; with `reverse`, also the target in the source's.

    Transparency is kept, and pixels that nobody sees are no part of a palette. `steps` of fine-tuning follow the
    prediction. Pixels are moved in blocks, so that the memory does not grow with the picture.
    """
    problem = SampleProblem(*(torch.from_numpy(palette(np.asarray(image))) for image in (source, target)))
    pair = predictor.predict(problem)
    if steps:
        pair = solve(problem, init=_trainable(pair), solver=GaussNewton(steps, linear=True)).pair
    return _moved(source, pair), _moved(target, pair.T) if reverse else None


def _trainable(pair: BrenierPair) -> BrenierPair:
    """Return networks with ridges for a pair that has as good as none: the linear map is no start for training."""
    if pair.phi.icnn.hidden != (1,):
        return pair
    icnn = Icnn(pair.phi.icnn.dim, (64,))
    weights = [icnn.weights(torch.Generator().manual_seed(seed)).to(pair.phi.weights) for seed in (0, 1)]
    return BrenierPair(
        BrenierPotential(icnn, weights[0], pair.phi.frame), BrenierPotential(icnn, weights[1], pair.psi.frame)
    )


@torch.no_grad()
def _moved(image: "Image", pair: BrenierPair) -> "Image":
    Image, _ = pillow()

    return Image.fromarray(moved(np.asarray(image), lambda colours: pair.push(torch.from_numpy(colours)).numpy()))
