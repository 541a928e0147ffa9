"""Colour transfer between pictures by torch: maps between palettes, fine-tuned if asked."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.amortize.maps import AmortizedMap, MapPredictor
from metaot.brenier import SampleProblem
from metaot.gaussian import ArrayMaps
from metaot.solvers import GaussNewton, solve


@torch.no_grad()
def palette_maps(x: np.ndarray, y: np.ndarray, predictor: MapPredictor, *, steps: int = 0) -> ArrayMaps:
    """Return the maps between palettes x, n 3, and y, m 3; `steps` of fine-tuning follow the prediction."""
    problem = SampleProblem(torch.from_numpy(x), torch.from_numpy(y))
    pair = predictor.predict(problem)
    if steps:
        linear = bool(pair.phi.icnn.is_quadratic(pair.phi.weights))  # it has no weights to tune
        pair = solve(problem, init=None if linear else pair, solver=GaussNewton(steps, linear=True)).pair
    push, pull = (lambda z, move=move: move(torch.from_numpy(z)).numpy() for move in (pair.push, pair.pull))
    return ArrayMaps(push, pull)


@torch.no_grad()
def recoloured_sheet(
    predictor: AmortizedMap, images: UInt8[Tensor, "count side side 3"]
) -> Float[Tensor, "height width 3"]:
    """Return a picture in [0, 1] with a row for each pair: source, target, and each in the palette of the other.

    The first half of the images are sources.
    """
    x, y = (part.float() / 255 for part in images[: len(images) // 2 * 2].chunk(2))
    pictures = torch.stack([x, y], 1).movedim(-1, 2)  # the context of networks that read pictures
    pixels = SampleProblem(x.flatten(1, 2), y.flatten(1, 2), pictures).to(next(predictor.model.parameters()))
    pair = predictor.predict(pixels)
    moved = [side.reshape(x.shape).clamp(0, 1).cpu() for side in (pair.push(pixels.x), pair.pull(pixels.y))]
    return torch.cat([x, y, *moved], 2).flatten(0, 1)
