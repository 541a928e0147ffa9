"""Palettes of pictures: pairs of images of a folder, split by image, as in the paper's colour transfer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.data.base import Source, Split
from metaot.folders import data_folder
from metaot.data.image_sets import even_pixels, open_images, read_rows
from metaot.data.palettes import random_palettes, recoloured
from metaot.data.samples import CloudPairs, SampleSet
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
        images = self._from_dataset(name, data_dir) if self.dataset else self._from_folder(name, data_dir)
        if name == "train":
            return PaintingPairs(self.batch, self.samples, images, not self.pictures, self.variety, self.pictures)
        return PaintingPairs(self.batch, self.samples, images, False, 0.0, self.pictures)

    def _from_folder(self, name: Split, data_dir: Path | None) -> Tensor:
        folder = Path(self.path) if self.path else data_folder(data_dir) / "paintings"
        return torch.stack([read_pixels(file) for file in _part(image_files(folder), name)])

    def _from_dataset(self, name: Split, data_dir: Path | None) -> Tensor:
        if self.path:
            raise ValueError(f"name a path or a dataset, got {self.path!r} and {self.dataset!r}")
        rows = open_images(self.dataset, self.column, data_dir)
        _require_enough(len(rows), self.dataset)
        return read_rows(rows, self.column, _part(range(len(rows)), name), SIDE)


@final
@dataclass(frozen=True)
class PaintingPairs(CloudPairs):
    """Colours in [0, 1] of two different images; with `parts`, of a random rectangle of each."""

    images: UInt8[Tensor, "count side side 3"]
    parts: bool = False
    variety: float = 0.0
    pictures: bool = False

    def __post_init__(self) -> None:
        SampleSet.__post_init__(self)
        if self.pictures and (self.parts or self.variety):
            raise ValueError("pictures as context are whole images as they are: set variety=0")

    @property
    def dim(self) -> int:
        return 3

    def context(self, generator: torch.Generator) -> Tensor | None:
        if not self.pictures:
            return None
        images = self.images[self._which(2 * self.batch, generator)].movedim(-1, 1).float() / 255
        return torch.stack(images.chunk(2), 1)

    def clouds(self, count: int, generator: torch.Generator) -> Float[Tensor, "count samples 3"]:
        which = self._which(count, generator)
        palettes = self._colours(which, generator)
        if not self.variety:
            return palettes
        other = self._colours(torch.randint(len(self.images), (count,), generator=generator), generator)
        share = torch.rand(count, 1, 1, generator=generator)
        mixed = torch.where(torch.rand(count, self.samples, 1, generator=generator) < share, palettes, other)
        options = [mixed, random_palettes(count, self.samples, generator), palettes]
        lot = torch.rand(count, 1, 1, generator=generator)
        palettes = torch.where(lot < 0.2 * self.variety, options[0], palettes)
        palettes = torch.where((lot > 0.4) & (lot < 0.4 + 0.3 * self.variety), options[1], palettes)
        changed = recoloured(palettes, generator)
        return torch.where(torch.rand(count, 1, 1, generator=generator) < self.variety, changed, palettes)

    def _which(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw images; the first and the second half of them differ, pair by pair."""
        first = torch.randint(len(self.images), (count // 2,), generator=generator)
        shift = torch.randint(1, len(self.images), (count // 2,), generator=generator)
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
    """Return the images of a folder in the order of their names; ValueError for fewer than twenty."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: name one with images (--set data.path=FOLDER), or a data set "
            "(--set data.dataset=NAME), or take embedded palettes: the recipe palettes"
        )
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    _require_enough(len(files), f"{folder} ({sorted(SUFFIXES)})")
    return files


def read_pixels(file: Path, side: int = SIDE) -> UInt8[Tensor, "side side 3"]:
    """Return pixels of an image on an even grid, their colours as they are."""
    Image, _ = pillow()

    try:
        with Image.open(file) as image:
            return even_pixels(image, side)
    except OSError as error:
        raise ValueError(f"{file} is not an image that can be read: {error}") from error


def _part(items: Sequence[T], name: Split) -> list[T]:
    return [item for k, item in enumerate(items) if k % 10 in _INDICES[name]]


def _require_enough(count: int, where: str) -> None:
    if count < _LEAST:
        raise ValueError(f"{where} holds {count} images, at least {_LEAST} are needed")
