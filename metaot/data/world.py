"""Places on the Earth: drawn from densities of land and people, or read from CSV files.

The densities are a raster or a rough synthetic picture. The raster is `world/gpw4_density_2020_15min.npz` of the
data folder (Gridded Population of the World, version 4, a quarter of a degree): `population` (persons per square
kilometre) and `land` (0 or 1), rows by `lat`, columns by `lon`.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.folders import data_folder, find_data

FILE = "world/gpw4_density_2020_15min.npz"
_RASTER = ("lat", "lon", "land", "population")
_COLUMNS = {
    "latitude": (("latitude", "lat"), -90.0, 90.0),
    "longitude": (("longitude", "lon", "lng", "long"), -180.0, 360.0),
    "weight": (("weight", "quantity"), 0.0, math.inf),
}
"""Columns of CSV files: their names in upper or lower case, the lowest and the highest value."""
_STEP = 1.0  # degrees between the cells of the synthetic world

# latitude and longitude of the centre, half-axes north and east, all in degrees
_LAND = (
    (55, -105, 17, 32), (40, -98, 12, 24), (25, -102, 9, 8), (66, -150, 5, 14), (72, -42, 9, 14), (14, -87, 5, 6),
    (0, -65, 10, 13), (-10, -54, 12, 16), (-30, -63, 14, 8), (-45, -70, 8, 3), (18, 8, 14, 22), (7, 22, 9, 26),
    (-12, 25, 13, 12), (-27, 24, 7, 7), (8, 43, 5, 6), (-19, 47, 6, 2), (48, 12, 8, 18), (40, -4, 4, 4),
    (62, 16, 7, 6), (54, -2, 4, 3), (56, 45, 10, 22), (62, 95, 10, 45), (66, 150, 5, 28), (43, 75, 9, 28),
    (39, 35, 3, 8), (30, 45, 9, 12), (33, 65, 6, 10), (22, 79, 9, 7), (33, 105, 10, 16), (45, 122, 6, 10),
    (15, 102, 6, 5), (37, 138, 4, 2), (37, 128, 2, 1), (0, 102, 4, 3), (0, 114, 4, 4), (-7, 110, 1, 4),
    (-5, 141, 3, 7), (12, 123, 4, 2), (-25, 134, 10, 19), (-42, 172, 4, 2),
)  # fmt: skip
# latitude, longitude, people in millions, standard deviation in degrees
_PEOPLE = (
    (26, 82, 380, 4.0), (22, 88, 260, 3.0), (13, 78, 200, 3.0), (20, 74, 170, 3.0), (30, 72, 190, 3.0),
    (32, 118, 370, 4.0), (36, 115, 330, 3.5), (24, 113, 180, 3.0), (30, 105, 160, 3.0), (43, 125, 100, 3.5),
    (36, 138, 115, 2.0), (37, 127, 60, 1.2), (-7, 110, 150, 2.0), (14, 121, 90, 2.0), (15, 103, 110, 3.5),
    (11, 106, 70, 2.0), (50, 5, 160, 4.0), (52, 0, 60, 2.0), (45, 12, 90, 3.0), (40, -4, 50, 3.0),
    (51, 22, 110, 5.0), (55, 40, 90, 5.0), (40, 32, 80, 4.0), (33, 46, 90, 4.0), (30, 31, 95, 1.5),
    (8, 6, 210, 3.5), (7, -4, 80, 4.0), (9, 39, 120, 3.0), (-1, 34, 150, 3.5), (-6, 20, 90, 6.0),
    (-15, 32, 80, 5.0), (-28, 28, 55, 3.0), (34, 3, 80, 5.0), (41, -76, 90, 3.5), (40, -88, 80, 4.5),
    (32, -90, 80, 6.0), (36, -119, 55, 3.0), (20, -100, 125, 3.0), (13, -86, 50, 3.0), (6, -74, 80, 3.0),
    (-22, -46, 110, 3.5), (-8, -38, 55, 3.0), (-34, -60, 55, 3.0), (-33, -71, 18, 2.0), (-34, 148, 20, 3.5),
    (41, 68, 70, 4.0),
)  # fmt: skip


@final
@dataclass(frozen=True)
class Places:
    """Degrees north and east, and the relative supply or demand of each place; `origin` names the source."""

    latitude: Float[Tensor, "count"]
    longitude: Float[Tensor, "count"]
    weight: Float[Tensor, "count"]
    origin: str


@final
@dataclass(frozen=True)
class World:
    """Two densities on cells of the same size in degrees; `origin` names their source."""

    latitude: Float[Tensor, "rows"]
    longitude: Float[Tensor, "columns"]
    land: Float[Tensor, "rows columns"]
    population: Float[Tensor, "rows columns"]
    origin: str

    def draw(self, density: Float[Tensor, "rows columns"], count: int, generator: torch.Generator) -> Places:
        """Draw places of weight one from a density per area: a cell first, then a point evenly in the cell."""
        area = torch.deg2rad(self.latitude).cos().clamp_min(0)[:, None]
        cells = torch.multinomial((density * area).flatten(), count, replacement=True, generator=generator)
        rows, columns = cells // density.shape[1], cells % density.shape[1]
        step = self.latitude[1] - self.latitude[0]
        north, east = step * (torch.rand(2, count, generator=generator, dtype=torch.float64) - 0.5)
        weight = torch.ones(count, dtype=torch.float64)
        return Places(self.latitude[rows] + north, self.longitude[columns] + east, weight, self.origin)


def read_world(kind: str, data_dir: Path | None = None) -> World:
    """Return the "raster" of the data folder, the "synthetic" world, or for "auto" the first that exists.

    Raises ValueError for another kind and for another file, FileNotFoundError for a missing raster.
    """
    if kind not in ("auto", "raster", "synthetic"):
        raise ValueError(f"world is 'auto', 'raster' or 'synthetic', got {kind!r}")
    there = (data_folder(data_dir) / FILE).exists()
    if kind == "synthetic" or (kind == "auto" and not there):
        return synthetic_world()
    path = find_data(FILE, data_dir)
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in _RASTER if name not in file]
        if missing:
            raise ValueError(f"{path} is not the raster: it has no {missing[0]!r}, only {sorted(file)}")
        lat, lon, land, people = (torch.from_numpy(file[name].astype(np.float64)) for name in _RASTER)
    return World(lat, lon, land, people.nan_to_num(0.0).clamp_min(0), f"raster {path.name}")


def synthetic_world() -> World:
    """Return a picture of the Earth that needs no data: ellipses of land, and people around regions."""
    latitude = torch.arange(-90 + _STEP / 2, 90, _STEP, dtype=torch.float64)
    longitude = torch.arange(-180 + _STEP / 2, 180, _STEP, dtype=torch.float64)
    land = torch.zeros(len(latitude), len(longitude), dtype=torch.float64)
    for north, east, height, width in _LAND:
        inside = ((latitude - north) / height).square()[:, None] + ((longitude - east) / width).square() < 1
        land = torch.where(inside, 1.0, land)
    people = torch.zeros_like(land)
    for north, east, count, width in _PEOPLE:
        stretch = torch.cos(torch.deg2rad(torch.tensor(float(north), dtype=torch.float64)))
        distance = (latitude - north).square()[:, None] + ((longitude - east) * stretch).square()
        people = people + count / width**2 * torch.exp(-0.5 * distance / width**2)
    return World(latitude, longitude, land, people * land, "synthetic")


def read_places(path: Path) -> Places:
    """Read a CSV file with a header: latitude, longitude (degrees) and optionally weight, among other columns.

    Raises FileNotFoundError, and ValueError for a missing column, fewer than two places, and a value that is not a
    number or out of its range, with the number of its line.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: name a CSV file with the columns latitude, longitude[, weight]"
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or ())
        known = {column.strip().lower(): column for column in header}
        columns = {}
        for name, (names, *_) in _COLUMNS.items():
            found = [known[own] for own in names if own in known]
            if found:
                columns[name] = found[0]
            elif name != "weight":
                raise ValueError(f"{path} needs a column {name!r} in its first line, got {header}")
        rows = [
            {name: _number(path, reader.line_num, name, row[column]) for name, column in columns.items()}
            for row in reader
        ]
    if len(rows) < 2:
        raise ValueError(f"{path} names {len(rows)} places: at least 2 are needed")
    values = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in columns}
    weight = values.get("weight", torch.ones(len(rows), dtype=torch.float64))
    if not bool((weight > 0).any()):
        raise ValueError(f"{path}: every weight is zero")
    return Places(values["latitude"], values["longitude"], weight, str(path))


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    _, low, high = _COLUMNS[name]
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{path}, line {line}: {name} must be a number in [{low:g}, {high:g}], got {text!r}")
    return value
