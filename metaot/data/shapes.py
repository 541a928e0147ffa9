"""An embedded family of random images: blobs, strokes, textures and sparse points."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.drawing import FLOAT, bumps, coin, cut, first_few, smooth_field, uniform
from metaot.data.images import as_weights
from metaot.geometry import Grid


@final
@dataclass(frozen=True)
class Shapes(Source):
    """Pairs of random images on a square grid; all splits have the same distribution, by other seeds."""

    batch: int = 128
    eps: EpsRange = (1e-2, 1e-2)
    side: int = 28

    def split(self, name: Split, data_dir: Path | None = None) -> "ShapePairs":
        return ShapePairs(self.batch, self.eps, self.side, STREAMS[name])


@final
@dataclass(frozen=True)
class ShapePairs(ProblemSet):
    """Pairs of images, each of one of the four kinds; `stream` keeps the splits apart."""

    side: int
    stream: int = 0

    @property
    def geometry(self) -> Grid:
        return self._grid

    @cached_property
    def _grid(self) -> Grid:
        return Grid(self.side, self.side)

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        own = stream(generator, self.stream)
        images = as_weights(random_images(2 * self.batch, self.side, own).double())
        return images[: self.batch], images[self.batch :]


def random_images(count: int, side: int, generator: torch.Generator) -> Float[Tensor, "count side side"]:
    """Draw images with intensities in [0, 1], a quarter of each kind, in random order."""
    kinds = (blobs, strokes, textures, sparse)
    sizes = [len(part) for part in torch.arange(count).tensor_split(len(kinds))]
    images = torch.cat([kind(size, side, generator) for kind, size in zip(kinds, sizes, strict=True)])
    return images[torch.randperm(count, generator=generator)]


def blobs(count: int, side: int, generator: torch.Generator) -> Tensor:
    """One to six round bumps of different widths and heights."""
    centres = uniform((count, 6, 2), generator, 0.1, 0.9)
    widths = uniform((count, 6, 2), generator, 0.03, 0.2)
    heights = uniform((count, 6), generator, 0.2, 1.0) * first_few(count, 6, generator)
    return cut(bumps(centres, widths, heights, side), uniform((count, 1, 1), generator, 0.0, 0.3))


def strokes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Pen strokes: one to three cubic curves of constant width, with hard edges, as in handwriting."""
    controls = uniform((count, 3, 4, 2), generator, 0.1, 0.9)
    joined = torch.rand((count, 1, 1), generator=generator, dtype=FLOAT) < 0.6
    controls[:, 1:, 0] = torch.where(joined, controls[:, :-1, 3], controls[:, 1:, 0])
    t = torch.linspace(0, 1, 32, dtype=FLOAT)
    bernstein = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], -1)
    points = torch.einsum("tk,cskd->cstd", bernstein, controls).flatten(1, 2)
    width = uniform((count, 1, 1), generator, 0.015, 0.05).expand(count, points.shape[1], 2)
    heights = first_few(count, 3, generator).repeat_interleave(32, dim=1)
    ink = bumps(points, width, heights, side)
    return cut((2 * ink).clamp_max(1), uniform((count, 1, 1), generator, 0.2, 0.6))


def textures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Smooth random fields, some exponentiated, some cut at zero, some within a round window."""
    field = smooth_field(count, side, generator, 0.4, 1.5)
    field = torch.where(coin(count, generator), (1.5 * field).exp().clamp_max(20), field.clamp_min(0))
    centre, radius = (
        uniform((count, 1, 2), generator, 0.3, 0.7),
        uniform((count, 1, 2), generator, 0.15, 0.5),
    )
    window = bumps(centre, radius, torch.ones(count, 1, dtype=FLOAT), side) > 0.5
    image = torch.where(coin(count, generator), field * window, field)
    return image / image.amax((1, 2), keepdim=True).clamp_min(1e-6) + 1e-6 * window


def sparse(count: int, side: int, generator: torch.Generator) -> Tensor:
    """A few to a few dozen single pixels of random weight."""
    share = 2 ** uniform((count, 1, 1), generator, 0.0, 6.0) / side**2
    lot = torch.rand((count, side, side), generator=generator, dtype=FLOAT)
    chosen = (lot < share) | (lot == lot.amin((1, 2), keepdim=True))
    return chosen * uniform((count, side, side), generator, 0.1, 1.0)
