"""Pairs of images as measures on a grid: intensities are masses."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from metaot.data.base import ProblemSet
from metaot.geometry import Grid


@final
@dataclass(frozen=True)
class ImagePairs(ProblemSet):
    """Two images on the unit square, drawn at random with replacement and normalised to mass one.

    The second one is of `images` as well, unless `targets` are given.
    """

    images: Shaped[Tensor, "count height width"]
    targets: Shaped[Tensor, "others height width"] | None = None

    def __post_init__(self) -> None:
        for images in self._both:
            blank = images.flatten(1).amax(1) == 0
            if blank.any():
                raise ValueError(f"image {int(blank.nonzero()[0])} has no mass: leave blank images out")

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        return self.images, self.images if self.targets is None else self.targets

    @property
    def geometry(self) -> Grid:
        return Grid(*self.images.shape[1:])

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        drawn = [pool[torch.randint(len(pool), (self.batch,), generator=generator)] for pool in self._both]
        return as_weights(drawn[0].double()), as_weights(drawn[1].double())


def as_weights(images: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch n"]:
    """Flatten images and scale each to mass one."""
    flat = images.flatten(-2)
    return flat / flat.sum(-1, keepdim=True)
