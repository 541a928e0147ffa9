"""Palettes of pictures, split by image, as in the paper's colour transfer.

The images are files of a folder, or a data set of the library `datasets`: a local folder, or a data set of the hub
that was fetched before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.data.base import SampleSet, Source, Split
from metaot.data.samples import random_palettes, recoloured
from metaot.folders import data_folder
from metaot.pictures import pillow
from metaot.settings import require_share, require_whole

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
SIDE = 160
"""Rows and columns of pixels that are kept of each image, evenly spaced and unchanged."""
_LEAST = 20  # images: two of them for validation and four for test
_INDICES = {"train": range(7), "validation": range(7, 8), "test": range(8, 10)}
"""The images of a split among every ten, in the order of their names."""


@final
@dataclass(frozen=True)
class Paintings(Source):
    """Pairs of images of the folder `path`, by default `paintings/` in the data folder, split by image.

    `dataset` and `column` name a data set instead: see `open_images`.
    `variety` is the share of training palettes that are changed: recoloured, mixed with another palette, or
    random. `pictures` gives whole images as context. Validation and test pairs are two whole images.
    """

    batch: int = 32
    """Problems in a step of training."""
    samples: int = 256
    """Points that each measure is given by."""
    path: str = ""
    """A folder of images; empty for paintings/ in the data folder."""
    variety: float = 0.7
    """The share of training palettes that are recoloured, mixed with another one, or random."""
    pictures: bool = False
    """Whether the network gets the whole pictures, too; with variety 0."""
    dataset: str = ""
    """A data set instead of a folder: a local one, or one of the hub that was fetched."""
    column: str = "image"
    """The column of the data set that holds the images."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, samples=self.samples)
        require_share(variety=self.variety)

    def split(self, name: Split, data_dir: Path | None = None) -> "PaintingPairs":
        if self.path and self.dataset:
            raise ValueError(f"name a path or a dataset, got {self.path!r} and {self.dataset!r}")
        items: Sequence[Any]
        if self.dataset:
            rows, where = open_images(self.dataset, self.column, data_dir), self.dataset
            items, opened = range(len(rows)), lambda k: rows[k][self.column]
        else:
            folder = Path(self.path) if self.path else data_folder(data_dir) / "paintings"
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is not a folder: name one with images (--set data.path=FOLDER), or a data set "
                    "(--set data.dataset=NAME), or take embedded palettes: the recipe palettes"
                )
            items = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
            opened, where = pillow()[0].open, f"{folder} ({sorted(SUFFIXES)})"
        if len(items) < _LEAST:
            raise ValueError(f"{where} holds {len(items)} images, at least {_LEAST} are needed")
        kept = [read_pixels(item, opened) for k, item in enumerate(items) if k % 10 in _INDICES[name]]
        parts, variety = (not self.pictures, self.variety) if name == "train" else (False, 0.0)
        if self.pictures and variety:
            raise ValueError("pictures as context are whole images as they are: set variety=0")
        return PaintingPairs(self.batch, self.samples, torch.stack(kept), parts, variety, self.pictures)


@final
@dataclass(frozen=True)
class PaintingPairs(SampleSet):
    """Colours in [0, 1] of two different images; with `parts`, of a random rectangle of each."""

    images: UInt8[Tensor, "count side side 3"]
    parts: bool = False
    variety: float = 0.0
    pictures: bool = False

    def sample(self, generator: torch.Generator) -> SampleProblem:
        first = torch.randint(len(self.images), (self.batch,), generator=generator)
        shift = torch.randint(1, len(self.images), (self.batch,), generator=generator)
        which = torch.cat([first, (first + shift) % len(self.images)])  # sources, then targets
        x, y = self._palettes(which, generator).float().chunk(2)
        if not self.pictures:
            return SampleProblem(x, y)
        return SampleProblem(x, y, torch.stack((self.images[which].movedim(-1, 1).float() / 255).chunk(2), 1))

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


def read_pixels(item: Any, opened: Callable[[Any], Any]) -> UInt8[Tensor, "side side 3"]:
    """Return pixels of the Pillow image `opened(item)` on an even grid; ValueError names what cannot be read."""
    try:
        with opened(item) as image:
            return even_pixels(image)
    except (OSError, SyntaxError, TypeError) as error:
        raise ValueError(f"image {item} cannot be read: {error}") from error


def open_images(name: str, column: str, data_dir: Path | None = None) -> Any:
    """Return a `datasets.Dataset` with a column of images, all its splits concatenated.

    `name` is a folder (saved by `save_to_disk`, or with images or parquet files), or a data set of the hub that
    `metaot fetch NAME` has saved in the data folder. Raises FileNotFoundError, and ValueError when the column is
    missing or has no images.
    """
    import datasets  # noqa: PLC0415, slow to import and needed only here
    from datasets.exceptions import DatasetsError  # noqa: PLC0415, the same

    folder = Path(name) if Path(name).is_dir() else fetched_folder(name, data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is no folder, and the data folder has no {folder}: fetch it from the hub with "
            f"`metaot fetch {name}`, or name a folder"
        )
    saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
    try:
        found = datasets.load_from_disk(folder) if saved else datasets.load_dataset(str(folder))
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(f"{folder} is not a data set that `datasets` reads: {error}") from error
    rows = datasets.concatenate_datasets(list(found.values())) if isinstance(found, dict) else found
    return require_images(rows, name, column)


def require_images(rows: Any, name: str, column: str) -> Any:
    """Return the rows with one column only; ValueError unless it holds images."""
    import datasets  # noqa: PLC0415, as above

    kinds = rows.features or {}
    if not isinstance(kinds.get(column), datasets.Image):
        there = [key for key, kind in kinds.items() if isinstance(kind, datasets.Image)]
        raise ValueError(
            f"{name} has no images in {column!r}: columns with images are {there}, name one with data.column"
        )
    return rows.select_columns([column])


def even_pixels(image: Any) -> UInt8[Tensor, "side side 3"]:
    """Return pixels of a Pillow image on an even grid, in RGB, their colours as they are."""
    pixels = np.asarray(image.convert("RGB"))
    rows, columns = (np.linspace(0, length - 1, SIDE).round().astype(int) for length in pixels.shape[:2])
    return torch.from_numpy(pixels[rows][:, columns].copy())


def fetched_folder(name: str, data_dir: Path | None = None) -> Path:
    """Return the folder of a data set that was fetched from the hub."""
    return data_folder(data_dir) / "images" / name.replace("/", "--")


def fetch_images(name: str, data_dir: Path | None = None, *, column: str = "image", limit: int = 2000) -> Path:
    """Download the first images of a data set of the hub and keep an even grid of their pixels; return the folder.

    The data set is streamed, so that only these rows are downloaded.
    """
    import datasets  # noqa: PLC0415, as above

    Image, _ = pillow()
    folder = fetched_folder(name, data_dir)
    if folder.exists():
        raise ValueError(f"{folder} is there already: remove it to fetch {name} again")
    parts = datasets.load_dataset(name, streaming=True)
    rows = require_images(next(iter(parts.values())), name, column)
    small = [Image.fromarray(even_pixels(row[column]).numpy()) for row in rows.take(limit)]
    kept = datasets.Dataset.from_dict({"image": small}, features=datasets.Features({"image": datasets.Image()}))
    partial = folder.with_name(folder.name + ".partial")
    kept.save_to_disk(partial)
    return partial.rename(folder)
