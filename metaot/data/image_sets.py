"""Image data sets of the library `datasets`: a local folder, or a data set of the hub that was fetched before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from metaot.folders import data_folder

LIMIT = 2000
"""The default number of images to fetch of a data set."""


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


def read_rows(rows: Any, column: str, which: Sequence[int], side: int) -> UInt8[Tensor, "count side side 3"]:
    """Return pixels of some rows on an even grid; ValueError names a row that cannot be read."""
    pixels = []
    for k in which:
        try:
            pixels.append(even_pixels(rows[k][column], side))
        except (OSError, SyntaxError, AttributeError) as error:
            raise ValueError(f"image {k} cannot be read: {error}") from error
    return torch.stack(pixels)


def even_pixels(image: Any, side: int) -> UInt8[Tensor, "side side 3"]:
    """Return pixels of a Pillow image on an even grid, in RGB."""
    pixels = np.asarray(image.convert("RGB"))
    rows, columns = (np.linspace(0, length - 1, side).round().astype(int) for length in pixels.shape[:2])
    return torch.from_numpy(pixels[rows][:, columns].copy())


def fetched_folder(name: str, data_dir: Path | None = None) -> Path:
    """Return the folder of a data set that was fetched from the hub."""
    return data_folder(data_dir) / "images" / name.replace("/", "--")


def fetch_images(
    name: str, data_dir: Path | None = None, *, column: str = "image", limit: int = LIMIT, side: int
) -> Path:
    """Download the first images of a data set of the hub and keep an even grid of their pixels; return the folder.

    The data set is streamed, so that only these rows are downloaded.
    """
    import datasets  # noqa: PLC0415, as above
    from PIL import Image  # noqa: PLC0415, an extra

    folder = fetched_folder(name, data_dir)
    if folder.exists():
        raise ValueError(f"{folder} is there already: remove it to fetch {name} again")
    parts = datasets.load_dataset(name, streaming=True)
    rows = require_images(next(iter(parts.values())), name, column)
    small = [Image.fromarray(even_pixels(row[column], side).numpy()) for row in rows.take(limit)]
    kept = datasets.Dataset.from_dict({"image": small}, features=datasets.Features({"image": datasets.Image()}))
    partial = folder.with_name(folder.name + ".partial")
    kept.save_to_disk(partial)
    return partial.rename(folder)
