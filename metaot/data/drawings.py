"""Pairs of random images: four kinds on one grid, or seven kinds on grids of many sizes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.images import as_weights
from metaot.geometry import Grid
from metaot.problem import Problem
from metaot.settings import require_eps, require_whole

FLOAT = torch.float32
_POINTS = 48  # of a curve
_HARMONICS = 4
_CURVES = 4  # at most, in an image
_LOBES = 5


@final
@dataclass(frozen=True)
class Shapes(Source):
    """Pairs of `random_images` on a square grid; all splits have the same distribution, by other seeds."""

    batch: int = 128
    """Problems in a step of training."""
    eps: EpsRange = (1e-2, 1e-2)
    """The lowest and the highest temperature; each problem's is drawn between them."""
    side: int = 28
    """Rows and columns of the images."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, side=self.side)
        require_eps(self.eps)

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
    """Problems in a step of training with images of the first of `sides`; fewer of larger images."""
    eps: EpsRange = (1e-3, 1e-1)
    """The lowest and the highest temperature; each problem's is drawn between them."""
    sides: tuple[int, ...] = (28, 28, 20, 24, 32, 40, 64)
    """Rows and columns of the images, of which each batch takes one; the first one for validation and test."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(1, **{"the number of sides": len(self.sides)})
        require_whole(2, **{f"sides[{k}]": side for k, side in enumerate(self.sides)})
        require_eps(self.eps)

    def split(self, name: Split, data_dir: Path | None = None) -> "DrawnPairs":
        sides = self.sides if name == "train" else self.sides[:1]
        return DrawnPairs(self.batch, self.eps, sides, STREAMS[name], each_twice)


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


def each_twice(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs, with each image in two of them, because images are expensive."""
    images = drawn_images(count // 2 + 1, side, generator)
    others = images[torch.randperm(len(images), generator=generator)]
    return torch.cat([images, images])[:count], torch.cat([images.roll(1, 0), others])[:count]


def blobs(count: int, side: int, generator: torch.Generator) -> Tensor:
    """One to six round bumps of different widths and heights."""
    centres = uniform((count, 6, 2), generator, 0.1, 0.9)
    widths = uniform((count, 6, 2), generator, 0.03, 0.2)
    heights = uniform((count, 6), generator, 0.2, 1.0) * first_few(count, 6, generator)
    return cut(bumps(centres, widths, heights, side), uniform((count, 1, 1), generator, 0.0, 0.3))


def strokes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Pen strokes: one to three cubic curves of constant width, with hard edges, as in handwriting."""
    controls = uniform((count, 3, 4, 2), generator, 0.1, 0.9)
    joined = coin(count, generator, 0.6)
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
    centre = uniform((count, 1, 2), generator, 0.3, 0.7)
    radius = uniform((count, 1, 2), generator, 0.15, 0.5)
    window = bumps(centre, radius, torch.ones(count, 1, dtype=FLOAT), side) > 0.5
    image = torch.where(coin(count, generator), field * window, field)
    return image / image.amax((1, 2), keepdim=True).clamp_min(1e-6) + 1e-6 * window


def sparse(count: int, side: int, generator: torch.Generator) -> Tensor:
    """A few to a few dozen single pixels of random weight."""
    share = 2 ** uniform((count, 1, 1), generator, 0.0, 6.0) / side**2
    lot = torch.rand((count, side, side), generator=generator, dtype=FLOAT)
    chosen = (lot < share) | (lot == lot.amin((1, 2), keepdim=True))
    return chosen * uniform((count, side, side), generator, 0.1, 1.0)


def curves(count: int, side: int, generator: torch.Generator) -> Tensor:
    """One to four thin or thick curves, open or closed, that fill a bounding box, as in doodles and digits."""
    shape = (count, _CURVES)
    k = torch.arange(1, _HARMONICS + 1, dtype=FLOAT)
    falling = k ** uniform((*shape, 1, 1, 1), generator, 0.8, 2.0)
    cosines, sines = (gaussian((*shape, 2, 2, _HARMONICS), generator) / falling).unbind(3)
    length = uniform((*shape, 1), generator, 0.3, 1.0)
    closed = torch.rand((*shape, 1), generator=generator) < 0.4
    t = torch.where(closed, 1.0, length) * torch.linspace(0, 1, _POINTS, dtype=FLOAT)
    angle = 2 * math.pi * k[:, None] * t[:, :, None, :]
    points = (cosines @ angle.cos() + sines @ angle.sin()).mT
    points = points * uniform((*shape, 1, 1), generator, 0.2, 1.0) + gaussian((*shape, 1, 2), generator)
    drawn = first_few(count, _CURVES, generator)
    points = torch.where(drawn[:, :, None, None] > 0, points, points[:, :1]).flatten(1, 2)
    low, size = _bounding_box(count, generator)
    start, end = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    points = low + (points - start) / (end - start).clamp_min(1e-3) * size
    widths = uniform((count, 1, 1), generator, 0.008, 0.05).expand(points.shape)
    ink = bumps(points, widths, drawn.repeat_interleave(_POINTS, 1), side)
    ink = ink / ink.amax((1, 2), keepdim=True)
    ink = (ink * uniform((count, 1, 1), generator, 1.5, 8.0)).clamp_max(1)
    return cut(ink, uniform((count, 1, 1), generator, 0.02, 0.5))


def silhouettes(count: int, side: int, generator: torch.Generator) -> Tensor:
    """One to three filled figures, round or angular, with hard or soft edges, some as holes, with shading."""
    axis = torch.linspace(0, 1, side, dtype=FLOAT)
    total = torch.zeros(count, side, side, dtype=FLOAT)
    for drawn, hole in ((1.0, 0.0), (0.4, 0.3), (0.4, 0.3)):
        height = uniform((count, 1, 1), generator, 0.3, 1.0) * coin(count, generator, drawn)
        sign = torch.where(coin(count, generator, hole), -1.0, 1.0)
        total = total + sign * height * _figure(count, axis, generator)
    shade = (smooth_field(count, side, generator, 0.4, 1.6) * uniform((count, 1, 1), generator, 0.0, 0.7)).exp()
    image = total.clamp_min(0) * shade
    image = image / image.amax((1, 2), keepdim=True).clamp_min(1e-6)
    return torch.where(image > uniform((count, 1, 1), generator, 0.0, 0.25), image, 0.0)


def _figure(count: int, axis: Tensor, generator: torch.Generator) -> Tensor:
    """Return one figure for each image, 1 inside and 0 outside."""
    low, size = _bounding_box(count, generator)
    radius = size[:, 0, :, None, None] / 2
    x = (axis[:, None] - low[:, 0, 0, None, None]) / radius[:, 0] - 1
    y = (axis - low[:, 0, 1, None, None]) / radius[:, 1] - 1
    k = torch.arange(1, _LOBES + 1, dtype=FLOAT)[:, None]
    lobes = 0.35 * gaussian((count, _LOBES, 2), generator) / k ** uniform((count, 1, 1), generator, 0.7, 2.0)
    angle = torch.atan2(x, y)
    edge = torch.full_like(angle, 0.75)
    for j in range(_LOBES):
        cosine, sine = lobes[:, j, :, None, None].unbind(1)
        edge = edge + 0.75 * (cosine * ((j + 1) * angle).cos() + sine * ((j + 1) * angle).sin())
    power = torch.where(coin(count, generator), 2.0, 8.0)
    distance = (x.abs() ** power + y.abs() ** power) ** (1 / power)
    return torch.sigmoid((edge - distance) * uniform((count, 1, 1), generator, 2.0, 40.0))


def pictures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Smooth light without black, with high or low contrast."""
    field = smooth_field(count, side, generator, 0.3, 1.2)
    light = (uniform((count, 1, 1), generator, 0.3, 1.5) * field).exp()
    even = torch.sigmoid(uniform((count, 1, 1), generator, 0.5, 4.0) * field)
    image = torch.where(coin(count, generator), light, even)
    return image / image.amax((1, 2), keepdim=True)


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
    mixed = count // 8  # of them are sums of two
    images[:mixed] *= uniform((mixed, 1, 1), generator, 0.1, 1.0)
    images[:mixed] += uniform((mixed, 1, 1), generator, 0.1, 1.0) * images[mixed : 2 * mixed]
    images = torch.where(coin(count, generator), images.mT, images)
    return images[torch.randperm(count, generator=generator)]


def _bounding_box(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return lower corners and sizes (count 1 2): half of them nearly fill the unit square, half are squares."""
    full, part = (uniform((count, 1, 2), generator, *ends) for ends in ((0.85, 1.0), (0.3, 0.9)))
    size = torch.where(coin(count, generator), full, part)
    size = torch.where(coin(count, generator), size[..., :1], size)
    return torch.rand((count, 1, 2), generator=generator, dtype=FLOAT) * (1 - size), size


def bumps(centres: Tensor, widths: Tensor, heights: Tensor, side: int) -> Tensor:
    """Return sums of Gaussian bumps with centres and widths (count p 2) and heights (count p)."""
    x = torch.linspace(0, 1, side, dtype=FLOAT)
    profile = (-0.5 * ((x - centres[..., None]) / widths[..., None]).square()).exp()
    return (heights[..., None] * profile[:, :, 0]).mT @ profile[:, :, 1]


def smooth_field(count: int, side: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return Gaussian random fields of unit mean square, whose spectra fall with powers from `low` to `high`."""
    modes = min(12, side)
    k = torch.arange(modes, dtype=FLOAT)
    x = torch.linspace(0, 1, side, dtype=FLOAT)
    basis = torch.cos(torch.pi * k[:, None] * x)
    decay = (1 + k[:, None] ** 2 + k**2) ** (-uniform((count, 1, 1), generator, low, high))
    field = basis.T @ (gaussian((count, modes, modes), generator) * decay) @ basis
    return field / field.square().mean((1, 2), keepdim=True).sqrt()


def cut(image: Tensor, threshold: Tensor) -> Tensor:
    """Scale to a maximum of one and set values below the threshold to zero."""
    image = image / image.amax((1, 2), keepdim=True)
    return torch.where(image > threshold, image, 0.0)


def first_few(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Return count x most ones and zeros: a random number (one to `most`) of ones, then zeros."""
    number = torch.randint(1, most + 1, (count, 1), generator=generator)
    return (torch.arange(most) < number).to(FLOAT)


def coin(count: int, generator: torch.Generator, chance: float = 0.5) -> Tensor:
    """Return true with a chance, one for each image."""
    return torch.rand((count, 1, 1), generator=generator, dtype=FLOAT) < chance


def uniform(shape: tuple[int, ...], generator: torch.Generator, low: float, high: float) -> Tensor:
    """Draw from an interval."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=FLOAT)


def gaussian(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution."""
    return torch.randn(shape, generator=generator, dtype=FLOAT)
