"""What the loop asks of a kind of problems: samples, a model, its loss, and how good it is."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from torch import Tensor, nn

ProblemT = TypeVar("ProblemT")
PredictorT = TypeVar("PredictorT")


class Task(ABC, Generic[ProblemT, PredictorT]):
    """A recipe with its data read and its validation problems solved."""

    @abstractmethod
    def new_model(self) -> nn.Module:
        """Return the recipe's model, not yet trained, with float32 weights."""

    @abstractmethod
    def predictor(self, model: nn.Module) -> PredictorT:
        """Return what predicts with a model, with its weights as they are at each prediction."""

    @abstractmethod
    def problem(self, step: int) -> ProblemT:
        """Draw the problems of a step: they depend on the seed and the step only."""

    @abstractmethod
    def loss(self, predictor: PredictorT, problem: ProblemT) -> Tensor:
        """Return the number to be minimised."""

    @abstractmethod
    def measure(self, predictor: PredictorT) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return figures on validation problems, which stay the same, and pictures (height width [3]) by title."""
