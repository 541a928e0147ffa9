"""Pairs of images as measures on a grid: intensities are masses."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.data.base import ProblemSet
from metaot.geometry import Grid


@final
@dataclass(frozen=True)
class ImagePairs(ProblemSet):
    """Two images on the unit square, drawn at random with replacement and normalised to mass one."""

    images: UInt8[Tensor, "count height width"]

    def __post_init__(self) -> None:
        blank = self.images.flatten(1).amax(1) == 0
        if blank.any():
            raise ValueError(f"image {int(blank.nonzero()[0])} has no mass: leave blank images out")

    @property
    def geometry(self) -> Grid:
        return self._grid

    @cached_property
    def _grid(self) -> Grid:
        return Grid(*self.images.shape[1:])

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        index = torch.randint(len(self.images), (2, self.batch), generator=generator)
        a, b = (as_weights(self.images[row].double()) for row in index)
        return a, b


def as_weights(images: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch n"]:
    """Flatten images and scale each to mass one."""
    flat = images.flatten(-2)
    return flat / flat.sum(-1, keepdim=True)
