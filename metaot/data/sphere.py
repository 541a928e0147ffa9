"""Supply and demand on the Earth: fixed places, new quantities every time (Meta OT, arXiv 2206.05262).

A hundred suppliers are drawn evenly over land, ten thousand customers by population; the cost is the angle between
them. The places are drawn once, or given by the user; only the quantities differ from problem to problem.

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

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.folders import data_folder, find_data
from metaot.geometry import Points
from metaot.geometry.costs import unit_vectors
from metaot.measures import read_archive
from metaot.settings import require_eps, require_whole

DEMANDS = ("uniform", "patterns")
WORLDS = ("auto", "raster", "synthetic")
FILE = "world/gpw4_density_2020_15min.npz"
_RASTER = ("lat", "lon", "land", "population")
_COLUMNS = {
    "latitude": (("latitude", "lat"), -90.0, 90.0),
    "longitude": (("longitude", "lon", "lng", "long"), -180.0, 360.0),
    "weight": (("weight", "quantity"), 0.0, math.inf),
}
"""Columns of CSV files: their names in upper or lower case, the lowest and the highest value."""


@final
@dataclass(frozen=True)
class Places:
    """Degrees north and east, and the relative supply or demand of each place."""

    latitude: Float[Tensor, "count"]
    longitude: Float[Tensor, "count"]
    weight: Float[Tensor, "count"]


@final
@dataclass(frozen=True)
class Sphere(Source):
    """Quantities at fixed places; all splits have the same places, and quantities by other seeds.

    `world` names the densities from which places are drawn: the "raster" of the data folder, the "synthetic"
    world, or "auto" for the raster if it exists. `supplier_file` and `customer_file` name CSV files (latitude,
    longitude and optionally weight) to be used instead. `demand` is "uniform", as in the paper, or "patterns":
    regional surges and the time of day, for tests of a model that was trained without them.
    """

    batch: int = 64
    """Problems in a step of training."""
    eps: EpsRange = (1e-3, 1e-3)
    """The lowest and the highest temperature; each problem's is drawn between them."""
    suppliers: int = 100
    """Suppliers that are drawn, evenly over land."""
    customers: int = 10_000
    """Customers that are drawn, by population."""
    places_seed: int = 0
    """Which places are drawn."""
    world: str = "auto"
    """Where land and people are: raster, synthetic, or auto for the raster of the data folder if it exists."""
    supplier_file: str = ""
    """A CSV file of suppliers instead: latitude, longitude and optionally weight."""
    customer_file: str = ""
    """A CSV file of customers instead."""
    demand: str = "uniform"
    """How demand is drawn: uniform, or patterns for regional surges and the time of day."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, suppliers=self.suppliers, customers=self.customers)
        require_whole(0, places_seed=self.places_seed)
        require_eps(self.eps)
        if self.world not in WORLDS:
            raise ValueError(f"world is one of {WORLDS}, got {self.world!r}")
        if self.demand not in DEMANDS:
            raise ValueError(f"demand is one of {DEMANDS}, got {self.demand!r}")

    def split(self, name: Split, data_dir: Path | None = None) -> "Deliveries":
        source, target = self.places(data_dir)
        x, y = (unit_vectors(places.latitude, places.longitude) for places in (source, target))
        patterns = self.demand == "patterns"
        space = Points(x, y, "sphere")
        return Deliveries(self.batch, self.eps, space, source.weight, target.weight, patterns, STREAMS[name])

    def places(self, data_dir: Path | None = None) -> tuple[Places, Places]:
        """Return suppliers and customers."""
        if bool(self.supplier_file) != bool(self.customer_file):
            given, missing = ("supplier_file", "customer_file")[:: 1 if self.supplier_file else -1]
            raise ValueError(f"{given} is set and {missing} is not: places of your own need both")
        if self.supplier_file:
            return read_places(Path(self.supplier_file)), read_places(Path(self.customer_file))
        world = read_world(self.world, data_dir)
        generator = torch.Generator().manual_seed(self.places_seed)
        suppliers = world.draw(world.land, self.suppliers, generator)
        return suppliers, world.draw(world.population, self.customers, generator)


@final
@dataclass(frozen=True)
class Deliveries(ProblemSet):
    """Random quantities between fixed places.

    Each supplier has goods with probability one half, and then an amount that is uniform in (0, 1); each customer
    wants an amount that is uniform in (0, 1). Both are multiplied with the weights of the places and normalised.
    With `patterns`, demand also follows regional surges and the hour of the day. `stream` keeps the splits apart.
    """

    space: Points
    supply: Float[Tensor, "n"]
    demand: Float[Tensor, "m"]
    patterns: bool = False
    stream: int = 0

    @classmethod
    def on(
        cls, space: Points, batch: int, eps: EpsRange, *, patterns: bool = False, stream: int = 2
    ) -> "Deliveries":
        """Return the problems on a given space, such as a checkpoint's; by default of the test split."""
        supply, demand = (torch.ones(size, dtype=torch.float64) for size in space.shape)
        return cls(batch, eps, space, supply, demand, patterns, stream)

    @property
    def geometry(self) -> Points:
        return self.space

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        own = stream(generator, self.stream)
        n, m = self.space.shape
        amounts = torch.rand(self.batch, n, generator=own, dtype=torch.float64)
        lots = torch.rand(self.batch, n, generator=own, dtype=torch.float64)
        chosen = (self.supply > 0) & ((lots < 0.5) | (lots == lots.where(self.supply > 0, 2.0).amin(-1, True)))
        supply = chosen * (1 - amounts) * self.supply
        demand = torch.rand(self.batch, m, generator=own, dtype=torch.float64) * self.demand
        if self.patterns:
            y, kind = self.space.y, torch.arange(self.batch)[:, None] % 3  # surges, the time of day, both
            factors = torch.where(kind != 1, surges(y, self.batch, own), 1.0)
            noon = 2 * math.pi * torch.rand(self.batch, 1, generator=own, dtype=torch.float64)
            demand = demand * (factors * torch.where(kind != 0, hours_at(y, noon), 1.0))
        return supply / supply.sum(-1, keepdim=True), demand / demand.sum(-1, keepdim=True)


def surges(y: Float[Tensor, "m 3"], batch: int, generator: torch.Generator) -> Float[Tensor, "batch m"]:
    """Draw regions where demand is 3 to 20 times as high: one to four, of 2 to 20 degrees around a customer."""
    count = 4
    centres = y[torch.randint(len(y), (batch, count), generator=generator)]
    radius, height, lots = torch.rand(3, batch, count, generator=generator, dtype=torch.float64)
    radius, height = torch.deg2rad(2 + 18 * radius), 3 * (20 / 3) ** height
    height = torch.where((torch.arange(count) == 0) | (lots < 0.5), height - 1, 0.0)
    nearness = (centres @ y.mT - 1) / (1 - radius.cos())[..., None]
    return 1 + (height[..., None] * torch.exp(nearness)).sum(1)


def hours_at(y: Float[Tensor, "m 3"], noon: float | Float[Tensor, "batch 1"]) -> Float[Tensor, "*batch m"]:
    """Return factors of demand when noon is at a longitude in radians: from 0.1 at midnight to 1."""
    longitude = torch.atan2(y[:, 1], y[:, 0])
    return 0.1 + 0.9 * (0.5 + 0.5 * torch.cos(longitude - noon)).square()


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
        return Places(self.latitude[rows] + north, self.longitude[columns] + east, weight)


def read_world(kind: str, data_dir: Path | None = None) -> World:
    """Return the "raster" of the data folder, the "synthetic" world, or for "auto" the first that exists.

    Raises ValueError for another kind and for another file, FileNotFoundError for a missing raster.
    """
    if kind not in WORLDS:
        raise ValueError(f"world is one of {WORLDS}, got {kind!r}")
    if kind == "synthetic" or (kind == "auto" and not (data_folder(data_dir) / FILE).exists()):
        return synthetic_world()
    path = find_data(FILE, data_dir, otherwise="take the embedded picture of the world: data.world=synthetic")
    arrays = read_archive(path)
    missing = [name for name in _RASTER if name not in arrays]
    if missing:
        raise ValueError(f"{path} is not the raster: it has no {missing[0]!r}, only {sorted(arrays)}")
    lat, lon, land, people = (torch.from_numpy(arrays[name].astype(np.float64)) for name in _RASTER)
    return World(lat, lon, land, people.nan_to_num(0.0).clamp_min(0), f"raster {path.name}")


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
        columns = {name: [known[own] for own in names if own in known] for name, (names, *_) in _COLUMNS.items()}
        for name in ("latitude", "longitude"):
            if not columns[name]:
                raise ValueError(f"{path} needs a column {name!r} in its first line, got {header}")
        rows = []
        for row in reader:
            texts = {name: row[found[0]] if found else "1" for name, found in columns.items()}
            rows.append([_number(path, reader.line_num, name, text) for name, text in texts.items()])
    if len(rows) < 2:
        raise ValueError(f"{path} names {len(rows)} places: at least 2 are needed")
    latitude, longitude, weight = torch.tensor(rows, dtype=torch.float64).T
    if not bool((weight > 0).any()):
        raise ValueError(f"{path}: every weight is zero")
    return Places(latitude, longitude, weight)


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    _, low, high = _COLUMNS[name]
    if not (low <= value <= high and math.isfinite(value)):
        raise ValueError(f"{path}, line {line}: {name} must be a number in [{low:g}, {high:g}], got {text!r}")
    return value


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


def synthetic_world() -> World:
    """Return a picture of the Earth that needs no data: ellipses of land, and people around regions."""
    latitude = torch.arange(-89.5, 90, dtype=torch.float64)
    longitude = torch.arange(-179.5, 180, dtype=torch.float64)
    north, east, height, width = torch.tensor(_LAND, dtype=torch.float64).T[..., None, None]
    inside = ((latitude[:, None] - north) / height).square() + ((longitude - east) / width).square() < 1
    land = inside.any(0).double()
    north, east, count, width = torch.tensor(_PEOPLE, dtype=torch.float64).T[..., None, None]
    stretch = torch.cos(torch.deg2rad(north))
    distance = (latitude[:, None] - north).square() + ((longitude - east) * stretch).square()
    people = (count / width**2 * torch.exp(-0.5 * distance / width**2)).sum(0)
    return World(latitude, longitude, land, people * land, "synthetic")
