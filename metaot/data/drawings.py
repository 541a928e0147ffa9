"""Pairs of random images of many kinds and sizes, on which a model of all images is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.drawing import coin, uniform
from metaot.data.figures import curves, pictures, silhouettes
from metaot.data.images import as_weights
from metaot.data.shapes import blobs, sparse, strokes, textures
from metaot.geometry import Grid
from metaot.problem import Problem

_KINDS: dict[Callable[[int, int, torch.Generator], Tensor], float] = {
    blobs: 1.0,
    strokes: 1.5,
    textures: 1.0,
    sparse: 0.4,
    curves: 5.0,
    silhouettes: 2.0,
    pictures: 1.0,
}
"""How often each kind is drawn."""

_MIXED = 1 / 8
"""The share of images that are a sum of two."""


@final
@dataclass(frozen=True)
class Drawings(Source):
    """Pairs of drawn images on square grids; each batch has one of `sides`, and fewer images on larger grids.

    `batch` is the number of images for the first side, on which validation and test are drawn. All splits have the
    same distribution, by other seeds.
    """

    batch: int = 256
    eps: EpsRange = (1e-3, 1e-1)
    sides: tuple[int, ...] = (28, 28, 20, 24, 32, 40, 64)

    def split(self, name: Split, data_dir: Path | None = None) -> "DrawnPairs":
        sides = self.sides if name == "train" else self.sides[:1]
        return DrawnPairs(self.batch, self.eps, tuple(int(side) for side in sides), STREAMS[name])


@final
@dataclass(frozen=True)
class DrawnPairs(ProblemSet):
    """Pairs of drawn images, with each image in two pairs; `stream` keeps the splits apart."""

    sides: tuple[int, ...]
    stream: int = 0

    @property
    def geometry(self) -> Grid:
        return Grid(self.sides[0], self.sides[0])

    def sample(self, generator: torch.Generator) -> Problem:
        if len(self.sides) == 1:
            return super().sample(generator)
        side = self.sides[int(torch.randint(len(self.sides), (), generator=generator))]
        batch = max(8, round(self.batch * min(1.0, (self.sides[0] / side) ** 2)))
        return replace(self, sides=(side,), batch=batch).sample(generator)

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        own = stream(generator, self.stream)
        images = as_weights(drawn_images(self.batch // 2 + 1, self.sides[0], own).double())
        others = images[torch.randperm(len(images), generator=own)]
        a, b = torch.cat([images, images]), torch.cat([images.roll(1, 0), others])
        return a[: self.batch], b[: self.batch]


def drawn_images(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "count side side"]:
    """Draw images with intensities >= 0, not all zero, in random order."""
    images = torch.cat([kind(n, side, generator) for kind, n in zip(_KINDS, _counts(count), strict=True)])
    images = torch.where(images.sum((1, 2), keepdim=True) > 1e-6, images, 1.0)
    images = images[torch.randperm(count, generator=generator)]
    mixed = int(count * _MIXED)
    images[:mixed] *= uniform((mixed, 1, 1), generator, 0.1, 1.0)
    images[:mixed] += uniform((mixed, 1, 1), generator, 0.1, 1.0) * images[mixed : 2 * mixed]
    images = torch.where(coin(count, generator), images.mT, images)
    return images[torch.randperm(count, generator=generator)]


def _counts(count: int) -> list[int]:
    ends = torch.tensor([0.0, *_KINDS.values()]).cumsum(0)
    return (ends / ends[-1] * count).round().long().diff().tolist()
