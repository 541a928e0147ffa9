"""What every network of the package is: tensors (a, b, eps) -> f, made again from JSON values."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry
from metaot.models.alone import Alone


class Evaluator(ABC):
    """What a model is at a given temperature."""

    @abstractmethod
    def __call__(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> Iterator[Float[Tensor, "batch n"]]:
        """Give the stages of the prediction, each computed when it is asked for."""

    @abstractmethod
    def alone(self) -> Alone:
        """Return the same in numpy, for one problem; only at one temperature, and with float32 on a CPU.

        It holds views of the weights: ask again when they have changed.
        """


class PotentialModel(nn.Module, ABC):
    """A network that maps weights a and b and a temperature to the potential f, float32.

    The constructor takes JSON values only, and keeps them in `config`. `forward` has no branches on values,
    so that it exports.
    """

    config: dict[str, Any]
    passes: int = 0
    """How many Sinkhorn steps a prediction contains."""
    refines: bool = False
    """Whether `passes` may be set to another number."""

    @classmethod
    @abstractmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "PotentialModel":
        """Return a new model for problems on `geometry` with eps in a range."""

    @abstractmethod
    def at(self, eps: Float[Tensor, "temperatures"]) -> Evaluator:
        """Return (a, b) -> stages at one temperature for the whole batch, or at one for each instance.

        What depends on eps alone is computed here, so that many predictions at one temperature can share it.
        The answer is of the weights, the device and the `passes` of now: ask again when one of them changes.
        """

    def stages(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> list[Float[Tensor, "batch n"]]:
        """Return the prediction as it is refined, the final one last; no gradient flows from one to another.

        Training scores every stage. Most models have one.
        """
        return list(self.at(eps)(a, b))

    def forward(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> Float[Tensor, "batch n"]:
        return self.stages(a, b, eps)[-1]

    @abstractmethod
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        """Set the scale of the inputs from a sample of problems; called once, before training."""


def single(model: PotentialModel) -> PotentialModel:
    """Give a new model float32 weights, whatever torch's default dtype is; buffers keep their own."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    return model


def by_columns(model: PotentialModel) -> PotentialModel:
    """Store the matrices of a model column by column: a product with one vector then reads them a fifth faster."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.mT.contiguous().mT
    return model


def log_unit(eps: Float[Tensor, "k"], bounds: tuple[float, float]) -> Float[Tensor, "k"]:
    """Map eps to [-1, 1], evenly in its logarithm; to 0 when the range is one number."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return (2 * eps.log() - low - high) / max(high - low, 1.0)
