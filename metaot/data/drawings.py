"""Pairs of random images: four kinds on one grid, or seven kinds on grids of many sizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.figures import blobs, coin, curves, pictures, silhouettes, sparse, strokes, textures, uniform
from metaot.data.images import as_weights
from metaot.geometry import Grid
from metaot.problem import Problem

_SHAPES = (blobs, strokes, textures, sparse)
_KINDS: dict[Callable[[int, int, torch.Generator], Tensor], float] = {
    blobs: 1.0,
    strokes: 1.5,
    textures: 1.0,
    sparse: 0.4,
    curves: 5.0,
    silhouettes: 2.0,
    pictures: 1.0,
}
"""How often `drawn_images` draws each kind."""

_MIXED = 1 / 8
"""The share of images that are a sum of two."""


@final
@dataclass(frozen=True)
class Shapes(Source):
    """Pairs of `random_images` on a square grid; all splits have the same distribution, by other seeds."""

    batch: int = 128
    eps: EpsRange = (1e-2, 1e-2)
    side: int = 28

    def split(self, name: Split, data_dir: Path | None = None) -> "DrawnPairs":
        return DrawnPairs(self.batch, self.eps, (self.side,), STREAMS[name], _halves)


@final
@dataclass(frozen=True)
class Drawings(Source):
    """Pairs of `drawn_images` on square grids; each batch has one of `sides`, and fewer images on larger grids.

    `batch` is the number of pairs for the first side, on which validation and test are drawn. All splits have the
    same distribution, by other seeds.
    """

    batch: int = 256
    eps: EpsRange = (1e-3, 1e-1)
    sides: tuple[int, ...] = (28, 28, 20, 24, 32, 40, 64)

    def split(self, name: Split, data_dir: Path | None = None) -> "DrawnPairs":
        sides = self.sides if name == "train" else self.sides[:1]
        return DrawnPairs(self.batch, self.eps, tuple(int(side) for side in sides), STREAMS[name], _each_twice)


@final
@dataclass(frozen=True)
class DrawnPairs(ProblemSet):
    """Pairs of images that `pairs(count, side, generator)` draws; `stream` keeps the splits apart."""

    sides: tuple[int, ...]
    stream: int
    pairs: Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]

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
        a, b = self.pairs(self.batch, self.sides[0], stream(generator, self.stream))
        return as_weights(a.double()), as_weights(b.double())


def _halves(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs of different images."""
    first, second = random_images(2 * count, side, generator).chunk(2)
    return first, second


def _each_twice(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs, with each image in two of them, because images are expensive."""
    images = drawn_images(count // 2 + 1, side, generator)
    others = images[torch.randperm(len(images), generator=generator)]
    return torch.cat([images, images])[:count], torch.cat([images.roll(1, 0), others])[:count]


def random_images(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "count side side"]:
    """Draw images with intensities in [0, 1], a quarter of each of four kinds, in random order."""
    sizes = [len(part) for part in torch.arange(count).tensor_split(len(_SHAPES))]
    images = torch.cat([kind(size, side, generator) for kind, size in zip(_SHAPES, sizes, strict=True)])
    return images[torch.randperm(count, generator=generator)]


def drawn_images(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "count side side"]:
    """Draw images of seven kinds with intensities >= 0, not all zero, in random order."""
    ends = torch.tensor([0.0, *_KINDS.values()]).cumsum(0)
    sizes = (ends / ends[-1] * count).round().long().diff().tolist()
    images = torch.cat([kind(size, side, generator) for kind, size in zip(_KINDS, sizes, strict=True)])
    images = torch.where(images.sum((1, 2), keepdim=True) > 1e-6, images, 1.0)
    images = images[torch.randperm(count, generator=generator)]
    mixed = int(count * _MIXED)
    images[:mixed] *= uniform((mixed, 1, 1), generator, 0.1, 1.0)
    images[:mixed] += uniform((mixed, 1, 1), generator, 0.1, 1.0) * images[mixed : 2 * mixed]
    images = torch.where(coin(count, generator), images.mT, images)
    return images[torch.randperm(count, generator=generator)]
