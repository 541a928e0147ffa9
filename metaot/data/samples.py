"""Distributions of continuous problems: settings, and batches of samples drawn from them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import SampleProblem


@dataclass(frozen=True)
class SampleSet(ABC):
    """Pairs of measures, each given by `samples` points; `dataclasses.replace` changes the batch or `samples`."""

    batch: int
    samples: int

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples < 2:
            raise ValueError(f"batch >= 1 and samples >= 2 are needed, got {self.batch} and {self.samples}")

    @property
    @abstractmethod
    def dim(self) -> int:
        """The dimension of the space."""

    @abstractmethod
    def sample(self, generator: torch.Generator) -> SampleProblem:
        """Draw a batch of problems, float32."""


@dataclass(frozen=True)
class CloudPairs(SampleSet):
    """Source and target clouds from the same distribution."""

    @abstractmethod
    def context(self, generator: torch.Generator) -> Tensor | None:
        """Return the other input of models, for the measures that `clouds` draws with the same generator."""

    @abstractmethod
    def clouds(self, count: int, generator: torch.Generator) -> Float[Tensor, "count samples d"]:
        """Draw the samples of `count` measures."""

    def sample(self, generator: torch.Generator) -> SampleProblem:
        context = self.context(generator.clone_state())
        x, y = self.clouds(2 * self.batch, generator).float().chunk(2)
        return SampleProblem(x, y, context)
