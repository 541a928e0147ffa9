"""Measures in files: pictures, arrays of weights, images and points, and CSV files of points; with numpy only."""

import csv
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final
from zipfile import BadZipFile

import numpy as np

from metaot.pictures import load_picture, pillow

Array = np.ndarray
Kind = Literal["weights", "image", "points"]

WEIGHT = ("weight", "weights", "mass", "quantity")
"""Names of the column of weights in a CSV file."""
PLACE = (("latitude", "lat"), ("longitude", "lon", "lng", "long"))
"""Names of columns that are degrees north and degrees east."""
_DELIMITERS = "\t;,"
_TABLES = (".csv", ".tsv", ".txt")
_FEW_COLUMNS = 3
"""Up to so many columns, an array with two axes holds points, one in a row."""
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@final
@dataclass(frozen=True)
class Measure:
    """What a file says: masses that are not yet scaled to one, and where they are.

    `mass` is n, or height width of an image; `points` are n d. Raises ValueError, naming the file and the first
    entry, for masses that are negative, infinite or NaN or all zero, and for coordinates that are not finite.
    """

    name: str
    kind: Kind
    mass: Array
    points: Array | None = None
    axes: tuple[str, ...] = ()
    """The names of the coordinates, where the file has them."""
    is_picture: bool = False
    """Whether it may be resampled."""
    original: tuple[int, ...] = ()
    """Rows and columns before that."""

    def __post_init__(self) -> None:
        for words, values in (("mass", self.mass), ("coordinate", self.points)):
            bad = np.zeros(0) if values is None else np.argwhere(~np.isfinite(values))
            if values is not None and len(bad):
                raise ValueError(f"{self.name}: {words} {_place(bad[0])} is {values[tuple(bad[0])]}")
        negative = np.argwhere(self.mass < 0)
        if len(negative):
            raise ValueError(
                f"{self.name}: mass {_place(negative[0])} is {self.mass[tuple(negative[0])]:g}, below zero"
                + (": if its rows are points, say so with --points" if self.kind == "image" else "")
            )
        if not self.mass.sum() > 0:
            why = ": brightness is mass, or darkness with --dark" if self.is_picture else ""
            raise ValueError(f"{self.name} has no mass{why}")

    @property
    def weights(self) -> Array:
        """The masses in one row, scaled to one."""
        flat = self.mass.reshape(-1).astype(np.float64)
        return flat / flat.sum()

    def __str__(self) -> str:
        size = " x ".join(map(str, self.mass.shape if self.points is None else self.points.shape))
        scaled = f", scaled from {' x '.join(map(str, self.original))}" if self.original else ""
        return f"{self.name}: {size} {'pixels' if self.kind == 'image' else self.kind}{scaled}"


def _place(index: Array) -> str:
    return f"[{', '.join(map(str, index))}]"


def read_measure(path: Path, *, points: bool = False, dark: bool = False) -> Measure:
    """Read a measure from a picture, a .npy array or a CSV file.

    Of a picture, brightness is mass, or darkness with `dark`; what is transparent has none. An array with one axis
    holds weights, with two axes an image or points: points where it has up to three columns or `points` is given.
    Raises FileNotFoundError, and ValueError for what is none of them.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a picture, a .npy file or a .csv file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _from_array(path, read_array(path), points)
    if suffix in _TABLES:
        return _from_table(path)
    return Measure(path.name, "image", _light(path, dark), is_picture=True)


def read_array(path: Path) -> Array:
    """Read an array of numbers as float64."""
    array = loaded(path)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold one array of real numbers, got {getattr(array, 'dtype', 'several')}")
    return array.astype(np.float64)


def read_archive(path: Path) -> dict[str, Array]:
    """Read all arrays of an .npz file."""
    arrays = loaded(path)
    if not isinstance(arrays, dict):
        raise ValueError(f"{path} must be an .npz file of several arrays, it holds a single one")
    return arrays


def loaded(path: Path) -> Any:
    """Return what numpy reads, an array or a dict of them; ValueError names a file that it does not."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return {name: found[name] for name in found}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged, or no file of numpy: {' '.join(str(error).split())}") from error


def _from_array(path: Path, array: Array, points: bool) -> Measure:
    if array.size == 0 or array.ndim not in (1, 2):
        raise ValueError(
            f"{path} has the shape {array.shape}: wanted: weights (n), an image (rows, columns) or points (n, d)"
        )
    if array.ndim == 1:
        return Measure(path.name, "weights", array)
    if points or array.shape[1] <= _FEW_COLUMNS:
        return Measure(path.name, "points", np.ones(len(array)), array)
    return Measure(path.name, "image", array)


def _light(path: Path, dark: bool) -> Array:
    """Return the brightness of a picture between 0 and 1, or its darkness, times its opacity."""
    pixels = np.asarray(load_picture(path), dtype=np.float64) / 255
    light = pixels[..., :3] @ _LUMINANCE
    light = (1 - light).clip(0) if dark else light
    return light * pixels[..., 3] if pixels.shape[-1] == 4 else light


def resampled(measure: Measure, shape: tuple[int, int]) -> Measure:
    """Return a picture with another number of rows and columns."""
    if measure.mass.shape == shape:
        return measure
    Image, _ = pillow()
    image = Image.fromarray(measure.mass.astype(np.float32))
    smaller = image.resize(shape[::-1], Image.Resampling.BILINEAR)
    return replace(measure, mass=np.asarray(smaller, dtype=np.float64).clip(0), original=measure.mass.shape)


def _from_table(path: Path) -> Measure:
    """Read points from a CSV file: a column for each coordinate, and in files with a header one of weights."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file") from error
    if not lines:
        raise ValueError(f"{path} is empty: wanted is a point in each line")
    delimiter = next((each for each in _DELIMITERS if each in lines[0]), " ")
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    rows = [[cell.strip() for cell in row] for row in rows]
    header = [] if all(map(_is_number, rows[0])) else [name.lower() for name in rows[0]]
    body = rows[1:] if header else rows
    if not body:
        raise ValueError(f"{path} has a header and no points")
    columns = _coordinates(header) if header else list(range(len(body[0])))
    weight = next((k for k, name in enumerate(header) if name in WEIGHT), None)
    if not columns:
        raise ValueError(f"{path} has no column of coordinates, only {rows[0]}")
    wanted = columns if weight is None else [*columns, weight]
    width = len(header or body[0])
    for k, row in enumerate(body):
        if len(row) != width:
            raise ValueError(f"{path}: point {k + 1} has {len(row)} columns, wanted are {width}")
        for column in wanted:
            if not _is_number(row[column]):
                name = f"column {rows[0][column]!r}" if header else f"column {column + 1}"
                raise ValueError(f"{path}: {name} of point {k + 1} is no number, got {row[column]!r}")
    points = np.array([[float(row[column]) for column in columns] for row in body])
    mass = np.ones(len(body)) if weight is None else np.array([float(row[weight]) for row in body])
    return Measure(path.name, "points", mass, points, tuple(rows[0][k] for k in columns) if header else ())


def _coordinates(header: list[str]) -> list[int]:
    """Return the columns of coordinates: latitude and longitude where there are both, else all but the weight."""
    found = [next((k for k, name in enumerate(header) if name in names), None) for names in PLACE]
    if None not in found:
        return [k for k in found if k is not None]
    return [k for k, name in enumerate(header) if name not in WEIGHT]


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def on_earth(measure: Measure) -> Measure:
    """Return points on the unit sphere, of degrees by the names of their columns, or of unit vectors."""
    points = measure.points
    if points is not None and points.shape[1] == 3:
        return measure
    if points is None or len(measure.axes) != 2 or measure.axes[0].lower() not in PLACE[0]:
        raise ValueError(
            f"{measure.name}: the cost sphere is for unit vectors (three columns), or for a CSV file with the "
            "columns latitude and longitude"
        )
    for k, largest in enumerate((90.0, 360.0)):
        bad = np.flatnonzero(np.abs(points[:, k]) > largest)
        if len(bad):
            value = points[bad[0], k]
            raise ValueError(
                f"{measure.name}: {measure.axes[k]} of point {bad[0] + 1} is {value:g}, beyond {largest:g}"
            )
    north, east = np.deg2rad(points).T
    return replace(
        measure, points=np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], 1)
    )
