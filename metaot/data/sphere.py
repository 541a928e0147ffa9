"""Supply and demand on the Earth: fixed places, new quantities every time (Meta OT, arXiv 2206.05262).

A hundred suppliers are drawn evenly over land, ten thousand customers by population; the cost is the angle between
them. The places are drawn once, or given by the user; only the quantities differ from problem to problem.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.world import Places, read_places, read_world
from metaot.geometry import Points
from metaot.geometry.costs import unit_vectors

DEMANDS = ("uniform", "patterns")


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
    eps: EpsRange = (1e-3, 1e-3)
    suppliers: int = 100
    customers: int = 10_000
    places_seed: int = 0
    world: str = "auto"
    supplier_file: str = ""
    customer_file: str = ""
    demand: str = "uniform"

    def split(self, name: Split, data_dir: Path | None = None) -> "Deliveries":
        if self.demand not in DEMANDS:
            raise ValueError(f"demand is one of {DEMANDS}, got {self.demand!r}")
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
        if self.suppliers < 2 or self.customers < 2:
            raise ValueError(f"at least 2 suppliers and customers, got {self.suppliers} and {self.customers}")
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
            demand = demand * (factors * torch.where(kind != 0, hours(y, self.batch, own), 1.0))
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


def hours(y: Float[Tensor, "m 3"], batch: int, generator: torch.Generator) -> Float[Tensor, "batch m"]:
    """Draw an hour of the day for each problem; return factors of demand at that hour."""
    return hours_at(y, 2 * math.pi * torch.rand(batch, 1, generator=generator, dtype=torch.float64))


def hours_at(y: Float[Tensor, "m 3"], noon: float | Float[Tensor, "batch 1"]) -> Float[Tensor, "*batch m"]:
    """Return factors of demand when noon is at a longitude in radians: from 0.1 at midnight to 1."""
    longitude = torch.atan2(y[:, 1], y[:, 0])
    return 0.1 + 0.9 * (0.5 + 0.5 * torch.cos(longitude - noon)).square()
