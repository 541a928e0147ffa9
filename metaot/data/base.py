"""Distributions of transport problems: settings that a recipe can hold, and batches drawn from them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.geometry import Geometry
from metaot.problem import Problem

Split = Literal["train", "validation", "test"]
STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
"""Numbers by which the random streams of the splits differ."""
EpsRange = tuple[float, float]
"""The lowest and the highest temperature, both included; equal for a single one."""


def stream(generator: torch.Generator, number: int) -> torch.Generator:
    """Return a new generator, seeded by another one, for a stream of `STREAMS`."""
    seed = int(torch.randint(2**40, (), generator=generator))
    return torch.Generator().manual_seed(len(STREAMS) * seed + number)


def middle(eps: EpsRange) -> float:
    """Return the geometric mean of a range, in few digits."""
    low, high = eps
    return min(max(low, float(f"{math.sqrt(low * high):.6g}")), high)


@dataclass(frozen=True)
class ProblemSet(ABC):
    """Random problems; `dataclasses.replace` changes the batch or eps.

    Problems on one geometry define `geometry` and `weights`. Where costs change from problem to problem,
    `geometry` is None and `sample` is defined as well.
    """

    batch: int
    eps: EpsRange

    @property
    @abstractmethod
    def geometry(self) -> Geometry | None:
        """The space that all problems share; None where batches or problems have spaces of their own."""

    @abstractmethod
    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        """Draw the weights (a, b) of a batch, float64."""

    def sample(self, generator: torch.Generator) -> Problem:
        """Draw a batch of problems; eps is log-uniform in its range, one for each instance."""
        geometry = self.geometry
        assert geometry is not None, "problems with spaces of their own define `sample`"
        a, b = self.weights(generator)
        return Problem(a, b, geometry, self.temperatures(len(a), generator))

    def temperatures(self, count: int, generator: torch.Generator) -> float | Float[Tensor, "count"]:
        """Draw log-uniformly from the range eps, float64; the number itself where there is only one."""
        low, high = self.eps
        if low == high:
            return low
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        return low * torch.exp(share * math.log(high / low))


@dataclass(frozen=True)
class SampleSet(ABC):
    """Pairs of measures, each given by `samples` points; `dataclasses.replace` changes the batch or `samples`."""

    batch: int
    samples: int

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples < 2:
            raise ValueError(f"batch >= 1 and samples >= 2 are needed, got {self.batch} and {self.samples}")

    @abstractmethod
    def sample(self, generator: torch.Generator) -> SampleProblem:
        """Draw a batch of problems, float32."""


@final
@dataclass(frozen=True)
class SnapshotSet:
    """Clouds of points, n_k d, at times that are `tau` apart, and how many points a step of training takes.

    `eps` is the temperature at which they are matched, 0 for exact pairs, and `new` the share of the gradient at
    the new positions in a step.
    """

    batch: int
    clouds: tuple[Float[Tensor, "_ d"], ...]
    tau: float
    eps: float
    new: float


class Source(ABC):
    """Settings of a data set, JSON values for a recipe; only `split` reads data."""

    @abstractmethod
    def split(self, name: Split, data_dir: Path | None = None) -> ProblemSet | SampleSet | SnapshotSet:
        """Read and return one part of the data; train, validation and test share none."""


def source_from_json(settings: dict[str, Any]) -> Source:
    """Rebuild a source from the JSON of a recipe: the name of its class and its settings."""
    kinds = {kind.__name__: kind for kind in Source.__subclasses__()}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name != "kind"}
    if settings["kind"] not in kinds:
        raise ValueError(f"data is one of {sorted(kinds)}, got {settings['kind']!r}")
    return kinds[settings["kind"]](**values)
