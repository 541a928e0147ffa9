"""Colour transfer between pictures by torch: maps between palettes, fine-tuned if asked."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.amortize.maps import AmortizedMap, MapPredictor
from metaot.brenier import BrenierPair, SampleProblem
from metaot.solvers import GaussNewton, solve


@final
@dataclass(frozen=True)
class PaletteMaps:
    """A pair of potentials that moves arrays, float32."""

    pair: BrenierPair

    @torch.no_grad()
    def push(self, x: np.ndarray) -> np.ndarray:
        """Send colours of the source, k 3, to the target's palette."""
        return self.pair.push(torch.from_numpy(x)).numpy()

    @torch.no_grad()
    def pull(self, y: np.ndarray) -> np.ndarray:
        """Send colours of the target, k 3, to the source's palette."""
        return self.pair.pull(torch.from_numpy(y)).numpy()


@torch.no_grad()
def palette_maps(x: np.ndarray, y: np.ndarray, predictor: MapPredictor, *, steps: int = 0) -> PaletteMaps:
    """Return the maps between palettes x, n 3, and y, m 3; `steps` of fine-tuning follow the prediction."""
    problem = SampleProblem(torch.from_numpy(x), torch.from_numpy(y))
    pair = predictor.predict(problem)
    if steps:
        linear = bool(pair.phi.icnn.is_quadratic(pair.phi.weights))  # it has no weights to tune
        pair = solve(problem, init=None if linear else pair, solver=GaussNewton(steps, linear=True)).pair
    return PaletteMaps(pair)


@torch.no_grad()
def recoloured_pairs(
    predictor: AmortizedMap, images: UInt8[Tensor, "count side side 3"]
) -> Float[Tensor, "pairs 4 side side 3"]:
    """Return the first half of the images, the second, and each in the palette of the other, in [0, 1]."""
    x, y = (part.float() / 255 for part in images[: len(images) // 2 * 2].chunk(2))
    pictures = torch.stack([x, y], 1).movedim(-1, 2)  # the context of networks that read pictures
    pixels = SampleProblem(x.flatten(1, 2), y.flatten(1, 2), pictures).to(next(predictor.model.parameters()))
    pair = predictor.predict(pixels)
    moved = [side.reshape(x.shape).clamp(0, 1).cpu() for side in (pair.push(pixels.x), pair.pull(pixels.y))]
    return torch.stack([x, y, *moved], 1)
