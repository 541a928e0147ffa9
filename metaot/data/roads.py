"""Suppliers and customers on road networks: travel times change with the hour, the traffic and closed roads."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.geometry import Dense
from metaot.problem import Problem
from metaot.settings import require_eps, require_whole

HOURS = 24.0
_KEPT = 2 * 2**30
"""Bytes of travel times that training keeps."""
_CANDIDATES = 3
"""From so many times as many junctions as suppliers travel times are kept; each problem chooses among them."""
_CONGESTED = 6
"""Places around which roads are congested at some hour."""
_SPEEDS, _SHARES = (1.0, 1.6, 2.5), (0.6, 0.9)
"""Speeds of streets, main roads and motorways; the first classes' shares of all roads, added up."""
_NOISE, _CLOSED, _DETOUR = 0.2, 0.03, 20.0
"""The spread of travel times, the share of closed roads, and how much longer a closed road takes."""
_QUANTITIES = 0.7
"""The shape of the Gamma distribution of quantities: a few are large and many small."""


@final
@dataclass(frozen=True)
class Roads(Source):
    """Problems whose cost is the travel time on a road network, `Dense` with a matrix for each problem.

    A problem has a `RoadNetwork`, an hour, random delays and closed roads, suppliers and customers at random
    junctions, and random quantities. eps is a share of the mean cost: each problem's `eps` is that share times the
    mean of its C, in the unit of C.

    Of unseen networks, validation and test draw a new one for each problem. Training draws from `networks`
    networks, each at one hour; each problem chooses suppliers among three times as many junctions and customers
    among all. Of a `seen` network, all splits share the network, suppliers and customers; hours, delays, closed
    roads and quantities are those of one split. Splits share no seed. Travel times of training are computed when
    they are first needed and kept, in float32. Needs scipy: `pip install 'metaot[roads]'`.
    """

    batch: int = 64
    """Problems in a step of training."""
    eps: EpsRange = (0.01, 0.05)
    """The lowest and the highest temperature, as a share of the mean cost of each problem."""
    suppliers: int = 100
    """Suppliers of each problem, at different junctions."""
    customers: int = 1000
    """Customers of each problem, at different junctions; a supplier may be at the same one."""
    nodes: int = 3000
    """Junctions of each network."""
    networks: int = 500
    """Networks that training draws from, or hours of the seen one; as many of them as fit into 2 GiB."""
    seen: bool = False
    """Whether all splits share one network with its suppliers and customers."""
    network_seed: int = 0
    """Which network is the seen one."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch, networks=self.networks)
        require_whole(2, suppliers=self.suppliers, customers=self.customers)
        require_whole(4, nodes=self.nodes)
        require_whole(0, network_seed=self.network_seed)
        require_eps(self.eps)
        for name, count in (("suppliers", self.suppliers), ("customers", self.customers)):
            if count > self.nodes:
                raise ValueError(f"{name} must be at most nodes, got {count} at {self.nodes}: raise nodes")

    def split(self, name: Split, data_dir: Path | None = None) -> "RoadProblems":
        return RoadProblems(self.batch, self.eps, self, STREAMS[name], TravelTimes(self, STREAMS[name]))

    def sample(self, generator: torch.Generator) -> Problem:
        """Draw a batch of the test split."""
        return self.split("test").sample(generator)


@final
@dataclass(frozen=True)
class RoadProblems(ProblemSet):
    """Random problems on road networks, see `Roads`; `stream` keeps the splits apart."""

    source: Roads
    stream: int
    costs: "TravelTimes"

    @property
    def geometry(self) -> None:
        return None

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        own, source = stream(generator, self.stream), self.source
        sizes = [(self.batch, count) for count in (source.suppliers, source.customers)]
        a, b = (_quantities(size, own) for size in sizes)
        return a, b

    def sample(self, generator: torch.Generator) -> Problem:
        a, b = self.weights(generator)
        own = stream(generator, self.stream)
        C = torch.stack([self.costs.drawn(own) for _ in range(self.batch)]).double()
        return Problem(a, b, Dense.trusted(C), self.temperatures(self.batch, generator) * C.mean((-2, -1)))


@final
class TravelTimes:
    """What draws the cost matrices of a split, and keeps the networks or hours of training."""

    def __init__(self, source: Roads, number: int) -> None:
        self.source, self.number = source, number
        self._pool = lru_cache(None)(self._member)

    def drawn(self, generator: torch.Generator) -> Float[Tensor, "n m"]:
        """Draw a matrix: of the pool in training, a new one else."""
        if self.number != STREAMS["train"]:
            return self._new(stream(generator, self.number))
        times = self._pool(int(torch.randint(self._pool_size, (), generator=generator)))
        if self.source.seen:
            return times
        rows = torch.randperm(len(times), generator=generator)[: self.source.suppliers]
        columns = torch.randperm(self.source.nodes, generator=generator)[: self.source.customers]
        return times.index_select(0, rows).index_select(1, columns)

    def _new(self, generator: torch.Generator) -> Float[Tensor, "n m"]:
        """Return travel times at a new hour, on a new network unless it is seen."""
        network, suppliers, customers = self._seen if self.source.seen else self._places(generator)
        return network.at_some_hour(suppliers, generator)[:, customers]

    def _member(self, number: int) -> Float[Tensor, "n m"]:
        """Return float32 travel times of the pool: between seen places, or from candidates to all junctions."""
        own = torch.Generator().manual_seed(len(STREAMS) * number + self.number)
        if self.source.seen:
            return self._new(own).float()
        network = RoadNetwork.drawn(self.source.nodes, own)
        candidates = torch.randperm(self.source.nodes, generator=own)[: self._candidates]
        return network.at_some_hour(candidates, own).float()

    @property
    def _pool_size(self) -> int:
        source = self.source
        entries = source.suppliers * source.customers if source.seen else self._candidates * source.nodes
        return min(source.networks, max(1, _KEPT // (4 * entries)))

    @property
    def _candidates(self) -> int:
        return min(self.source.nodes, _CANDIDATES * self.source.suppliers)

    @cached_property
    def _seen(self) -> "tuple[RoadNetwork, Int[Tensor, 'n'], Int[Tensor, 'm']]":
        return self._places(torch.Generator().manual_seed(self.source.network_seed))

    def _places(self, generator: torch.Generator) -> "tuple[RoadNetwork, Int[Tensor, 'n'], Int[Tensor, 'm']]":
        """Draw a network, and the junctions of suppliers and customers."""
        nodes = self.source.nodes
        network = RoadNetwork.drawn(nodes, generator)
        suppliers, customers = (torch.randperm(nodes, generator=generator) for _ in range(2))
        return network, suppliers[: self.source.suppliers], customers[: self.source.customers]


@final
@dataclass(frozen=True)
class RoadNetwork:
    """Roads between junctions on the unit square, in both directions, and places that are congested at an hour.

    The unit of time is that in which a street of length one is crossed.
    """

    points: Float[Tensor, "nodes 2"]
    """Where the junctions are."""
    roads: Int[Tensor, "roads 2"]
    """The two junctions of each road."""
    times: Float[Tensor, "roads"]
    """The time that each road takes when it is empty."""
    places: Float[Tensor, "places 2"]
    """The centres of congestion."""
    hours: Float[Tensor, "places"]
    """When each place is most congested."""
    radii: Float[Tensor, "places"]
    """How far the congestion of each place reaches."""
    heights: Float[Tensor, "places"]
    """How many times longer a road takes there then, beyond once."""

    @classmethod
    def drawn(cls, nodes: int, generator: torch.Generator) -> "RoadNetwork":
        """Draw a connected planar network: a Delaunay triangulation of random points, without most long roads."""
        scipy = _scipy()
        points = _uniform((nodes, 2), generator)
        corners = scipy.spatial.Delaunay(points.numpy()).simplices
        pairs = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
        codes = np.unique(
            np.sort(pairs, 1).astype(np.int64) @ np.array([nodes, 1])
        )  # one number for each pair, quick to compare
        roads = np.stack([codes // nodes, codes % nodes], 1)
        ends = points[torch.from_numpy(roads)]
        lengths = (ends[:, 0] - ends[:, 1]).norm(dim=-1)
        graph = scipy.sparse.csr_array((lengths.numpy(), tuple(roads.T)), shape=(nodes, nodes))
        tree = scipy.sparse.csgraph.minimum_spanning_tree(graph).tocoo()
        needed = torch.from_numpy(np.isin(codes, tree.row.astype(np.int64) * nodes + tree.col))
        kept = needed | (lengths < lengths.quantile(0.3)) | (_uniform(len(roads), generator) < 0.7)
        roads, lengths = torch.from_numpy(roads)[kept], lengths[kept]
        kinds = torch.bucketize(_uniform(len(roads), generator), torch.tensor(_SHARES, dtype=torch.float64))
        places = _uniform((_CONGESTED, 2), generator)
        hours, radii, heights = _uniform((3, _CONGESTED), generator)
        speeds = torch.tensor(_SPEEDS, dtype=torch.float64)[kinds]
        return cls(points, roads, lengths / speeds, places, HOURS * hours, 0.05 + 0.15 * radii, 1 + 3 * heights)

    def congestion(self, hour: float) -> Float[Tensor, "roads"]:
        """Return by which factor each road takes longer at an hour from 0 to 24 than when it is empty."""
        middles = self.points[self.roads].mean(1)
        nearness = torch.exp(-0.5 * (torch.cdist(middles, self.places) / self.radii).square())
        activity = torch.cos(2 * torch.pi / HOURS * (hour - self.hours)).clamp_min(0)
        return 1 + nearness @ (self.heights * activity)

    def traffic(
        self, hour: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "roads"], Bool[Tensor, "roads"]]:
        """Draw the time that each road takes at an hour, and which roads are closed.

        Beside congestion each road has a delay by chance. A closed road takes twenty times as long, so that every
        junction is reached.
        """
        noise = torch.randn(len(self.roads), generator=generator, dtype=torch.float64)
        closed = _uniform(len(self.roads), generator) < _CLOSED
        times = self.times * self.congestion(hour) * torch.exp(_NOISE * noise)
        return torch.where(closed, _DETOUR * times, times), closed

    def travel_times(self, sources: Int[Tensor, "n"], times: Float[Tensor, "roads"]) -> Float[Tensor, "n nodes"]:
        """Return the times of the fastest ways from some junctions to all, when roads take the given times."""
        scipy, (first, second) = _scipy(), self.roads.T.numpy()
        ends = np.r_[first, second], np.r_[second, first]
        both = times.repeat(2).numpy()
        graph = scipy.sparse.csr_array((both, ends), shape=(len(self.points),) * 2)
        return torch.from_numpy(scipy.sparse.csgraph.dijkstra(graph, indices=sources.numpy()))

    def at_some_hour(self, sources: Int[Tensor, "n"], generator: torch.Generator) -> Float[Tensor, "n nodes"]:
        """Draw an hour and its traffic, and return the times from some junctions to all."""
        hour = HOURS * float(_uniform((), generator))
        return self.travel_times(sources, self.traffic(hour, generator)[0])


def _scipy() -> Any:
    """Return scipy; the ImportError says how to install it."""
    try:
        import scipy.sparse.csgraph  # noqa: PLC0415, an extra
        import scipy.spatial  # noqa: PLC0415, the same
    except ImportError as missing:
        raise ImportError("road networks need scipy: pip install 'metaot[roads]'") from missing
    return scipy


def _uniform(shape: int | tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    size = (shape,) if isinstance(shape, int) else shape
    return torch.rand(size, generator=generator, dtype=torch.float64)


def _quantities(shape: tuple[int, int], generator: torch.Generator) -> Float[Tensor, "batch n"]:
    """Draw weights: quantities by a Gamma distribution, as shares of their sum."""
    drawn = torch._standard_gamma(torch.full(shape, _QUANTITIES, dtype=torch.float64), generator=generator)
    return drawn / drawn.sum(-1, keepdim=True)
