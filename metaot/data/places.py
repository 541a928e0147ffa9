"""Fixed places on the Earth with weights: drawn from a world, or read from CSV files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.world import World
from metaot.geometry import Points
from metaot.geometry.costs import unit_vectors

_NAMES = {
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng", "long"),
    "weight": ("weight", "quantity"),
}
"""Names of columns, in upper or lower case."""
_RANGES = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 360.0), "weight": (0.0, math.inf)}


@final
@dataclass(frozen=True)
class Places:
    """Degrees north and east, and the relative supply or demand of each place; `origin` names the source."""

    latitude: Float[Tensor, "count"]
    longitude: Float[Tensor, "count"]
    weight: Float[Tensor, "count"]
    origin: str

    @property
    def vectors(self) -> Float[Tensor, "count 3"]:
        """The places on the unit sphere."""
        return unit_vectors(self.latitude, self.longitude)


def drawn_places(world: World, suppliers: int, customers: int, seed: int) -> tuple[Places, Places]:
    """Draw suppliers evenly over land and customers by population, as in Meta OT (arXiv 2206.05262)."""
    generator = torch.Generator().manual_seed(seed)
    sides = ((world.land, suppliers), (world.population, customers))
    drawn = [(world.draw(density, count, generator), count) for density, count in sides]
    source, target = (
        Places(*degrees, torch.ones(count, dtype=torch.float64), world.origin) for degrees, count in drawn
    )
    return source, target


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
        columns = _columns(path, reader.fieldnames or ())
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


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Return the names in the file of the columns to read."""
    known = {column.strip().lower(): column for column in header}
    found = {name: next((known[n] for n in names if n in known), None) for name, names in _NAMES.items()}
    for name in ("latitude", "longitude"):
        if found[name] is None:
            raise ValueError(f"{path} needs a column {name!r} in its first line, got {list(header)}")
    return {name: column for name, column in found.items() if column is not None}


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    low, high = _RANGES[name]
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{path}, line {line}: {name} must be a number in [{low:g}, {high:g}], got {text!r}")
    return value


def great_circles(source: Places, target: Places) -> Points:
    """Return the space between places, with the angle in radians as its cost."""
    return Points(source.vectors, target.vectors, "sphere")
