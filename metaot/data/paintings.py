"""Palettes of pictures: pairs of images of a folder, split by image, as in the paper's colour transfer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.data.base import SampleSet, Source, Split
from metaot.data.image_sets import even_pixels, open_images, read_rows
from metaot.data.palettes import random_palettes, recoloured
from metaot.folders import data_folder
from metaot.pictures import pillow

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SIDE = 160
"""Rows and columns of pixels that are kept of each image, evenly spaced and unchanged."""

T = TypeVar("T")
_LEAST = 20
"""The fewest images: two for validation and four for test."""
_INDICES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4, 5, 6), "validation": (7,), "test": (8, 9)}
"""The images of a split among every ten, in the order of their names."""


@final
@dataclass(frozen=True)
class Paintings(Source):
    """Pairs of images of the folder `path`, by default `paintings/` in the data folder, split by image.

    `dataset` and `column` name a data set instead: a folder or a name of the hub, see `metaot.data.image_sets`.
    `variety` is the share of training palettes that are changed: recoloured, mixed with another palette, or
    random. `pictures` gives whole images as context. Validation and test pairs are two whole images.
    """

    batch: int = 32
    samples: int = 256
    path: str = ""
    variety: float = 0.7
    pictures: bool = False
    dataset: str = ""
    column: str = "image"

    def split(self, name: Split, data_dir: Path | None = None) -> "PaintingPairs":
        if self.path and self.dataset:
            raise ValueError(f"name a path or a dataset, got {self.path!r} and {self.dataset!r}")
        if self.dataset:
            rows = open_images(self.dataset, self.column, data_dir)
            images = read_rows(rows, self.column, _part(range(len(rows)), name, self.dataset), SIDE)
        else:
            folder = Path(self.path) if self.path else data_folder(data_dir) / "paintings"
            files = _part(image_files(folder), name, f"{folder} ({sorted(SUFFIXES)})")
            images = torch.stack([read_pixels(file) for file in files])
        parts, variety = (not self.pictures, self.variety) if name == "train" else (False, 0.0)
        return PaintingPairs(self.batch, self.samples, images, parts, variety, self.pictures)


@final
@dataclass(frozen=True)
class PaintingPairs(SampleSet):
    """Colours in [0, 1] of two different images; with `parts`, of a random rectangle of each."""

    images: UInt8[Tensor, "count side side 3"]
    parts: bool = False
    variety: float = 0.0
    pictures: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pictures and (self.parts or self.variety):
            raise ValueError("pictures as context are whole images as they are: set variety=0")

    def sample(self, generator: torch.Generator) -> SampleProblem:
        which = self._which(generator)
        x, y = self._palettes(which, generator).float().chunk(2)
        context = None
        if self.pictures:
            context = torch.stack((self.images[which].movedim(-1, 1).float() / 255).chunk(2), 1)
        return SampleProblem(x, y, context)

    def _palettes(self, which: Tensor, generator: torch.Generator) -> Float[Tensor, "count samples 3"]:
        """Draw colours of the images; a share `variety` of the palettes is changed."""
        count, palettes = len(which), self._colours(which, generator)
        if not self.variety:
            return palettes
        other = self._colours(torch.randint(len(self.images), (count,), generator=generator), generator)
        share = torch.rand(count, 1, 1, generator=generator)
        mixed = torch.where(torch.rand(count, self.samples, 1, generator=generator) < share, palettes, other)
        drawn = random_palettes(count, self.samples, generator)
        lot = torch.rand(count, 1, 1, generator=generator)
        palettes = torch.where(lot < 0.2 * self.variety, mixed, palettes)
        palettes = torch.where((lot > 0.4) & (lot < 0.4 + 0.3 * self.variety), drawn, palettes)
        changed = recoloured(palettes, generator)
        return torch.where(torch.rand(count, 1, 1, generator=generator) < self.variety, changed, palettes)

    def _which(self, generator: torch.Generator) -> Tensor:
        """Draw the sources, then the targets; the two images of a pair differ."""
        first = torch.randint(len(self.images), (self.batch,), generator=generator)
        shift = torch.randint(1, len(self.images), (self.batch,), generator=generator)
        return torch.cat([first, (first + shift) % len(self.images)])

    def _colours(self, which: Tensor, generator: torch.Generator) -> Tensor:
        """Draw pixels of a rectangle of each image, or of the whole image."""
        count, side = len(which), self.images.shape[1]
        low, size = torch.zeros(2, count, 1), torch.ones(2, count, 1)
        if self.parts:
            size = 0.25 + 0.75 * torch.rand(2, count, 1, generator=generator)
            low = (1 - size) * torch.rand(2, count, 1, generator=generator)
        position = low + size * torch.rand(2, count, self.samples, generator=generator)
        row, column = (position * side).long().clamp(max=side - 1)
        return self.images[which[:, None], row, column].float() / 255


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: name one with images (--set data.path=FOLDER), or a data set "
            "(--set data.dataset=NAME), or take embedded palettes: the recipe palettes"
        )
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def read_pixels(file: Path, side: int = SIDE) -> UInt8[Tensor, "side side 3"]:
    """Return pixels of an image on an even grid, their colours as they are."""
    Image, _ = pillow()

    try:
        with Image.open(file) as image:
            return even_pixels(image, side)
    except OSError as error:
        raise ValueError(f"{file} is not an image that can be read: {error}") from error


def _part(items: Sequence[T], name: Split, where: str) -> list[T]:
    """Return the images of a split; ValueError for fewer than twenty in all."""
    if len(items) < _LEAST:
        raise ValueError(f"{where} holds {len(items)} images, at least {_LEAST} are needed")
    return [item for k, item in enumerate(items) if k % 10 in _INDICES[name]]
