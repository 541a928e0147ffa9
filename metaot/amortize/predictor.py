"""A network with the geometry and temperatures it was trained on: f from the network, g in closed form."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Geometry
from metaot.geometry.checks import first_place
from metaot.models import PotentialModel
from metaot.potentials import DualPotentials
from metaot.problem import Problem


class Predictor(ABC):
    """Anything that guesses the solution of problems."""

    @abstractmethod
    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess; of its potentials g is the best for f."""


@final
class AmortizedPotential(Predictor):
    """A network (a, b, eps) -> f with the problems that it is for.

    `geometry` is the space and `eps` the range (lowest, highest) of temperatures of the training. Problems
    on another geometry or with another eps raise ValueError.
    """

    def __init__(self, model: PotentialModel, geometry: Geometry, eps: tuple[float, float]) -> None:
        self.model, self.geometry, self.eps = model, geometry, eps

    @property
    def passes(self) -> int:
        """How many Sinkhorn steps a prediction contains; a refined model may be given another number."""
        return self.model.passes

    @passes.setter
    def passes(self, count: int) -> None:
        if count < 0 or (count > 0 and self.model.passes == 0):
            raise ValueError(f"passes must be >= 0, and 0 for a model that has none, got {count}")
        self.model.passes = count

    def predict(self, problem: Problem) -> DualPotentials:
        return DualPotentials.from_f(problem, self.stages(problem)[-1])

    def stages(self, problem: Problem) -> list[Float[Tensor, "*batch n"]]:
        """Return f of every stage of the network, float32 inside, in the dtype of the problem."""
        self._require_known(problem)
        flat = problem.flat()
        eps = torch.as_tensor(flat.eps, dtype=torch.float32, device=flat.a.device).expand(len(flat.a))
        stages = self.model.stages(flat.a.float(), flat.b.float(), eps)
        return [f.to(problem.a.dtype).reshape(problem.a.shape) for f in stages]

    def _require_known(self, problem: Problem) -> None:
        if not self.geometry.matches(problem.geometry):
            raise ValueError(
                f"the model was trained on {self.geometry}, got a problem on {problem.geometry}: "
                "build problems with `predictor.geometry`, or train a model for yours"
            )
        low, high = self.eps
        eps = torch.as_tensor(problem.eps)
        bad = (eps < low * (1 - 1e-6)) | (eps > high * (1 + 1e-6))
        if bad.any():
            raise ValueError(
                f"the model was trained for eps in [{low:g}, {high:g}], got eps{first_place(bad, eps)}: "
                "train one for yours"
            )
