"""A network with the geometry and temperatures it was trained on: f from the network, g in closed form."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.prepared import Prepared
from metaot.geometry import Eps, Geometry
from metaot.geometry.checks import first_place
from metaot.models import PotentialModel
from metaot.potentials import DualPotentials
from metaot.problem import Problem


class Predictor(ABC):
    """Anything that guesses the solution of problems."""

    @abstractmethod
    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess; of its potentials g is the best for f."""


class StagedPredictor(Predictor):
    """A network that predicts f, in `passes` stages more than one; g in closed form."""

    model: Any

    start_passes = 1
    """The most passes of a start for a solver: more, where its own steps are cheaper, cost time."""

    @abstractmethod
    def _evaluate(self, problem: Problem) -> Iterator[Tensor] | Iterator[np.ndarray]:
        """Give f of every stage, each computed when it is asked for; ValueError for problems of another kind."""

    @property
    def passes(self) -> int:
        """How many Sinkhorn steps a prediction contains; a refined model may be given another number."""
        return self.model.passes

    @passes.setter
    def passes(self, count: int) -> None:
        if count < 0 or (count > 0 and not self.model.refines):
            raise ValueError(f"passes must be >= 0, and 0 for a {type(self.model).__name__}, got {count}")
        self.model.passes = count

    def predict(self, problem: Problem) -> DualPotentials:
        *_, f = self._evaluate(problem)
        return DualPotentials.from_f(problem, in_shape(problem, f))

    def start_f(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        """Return f as a start for a solver, which may overwrite it: of `start_passes` at most."""
        *_, f = islice(self._evaluate(problem), self.start_passes + 1)
        return in_shape(problem, f)

    def stages(self, problem: Problem) -> list[Float[Tensor, "*batch n"]]:
        """Return f of every stage of the network, float32 inside, in the dtype of the problem."""
        return [in_shape(problem, f) for f in self._evaluate(problem)]


@final
class AmortizedPotential(StagedPredictor):
    """A network (a, b, eps) -> f with the problems that it is for.

    `geometry` is the space and `eps` the range (lowest, highest) of temperatures of the training. Problems
    on another geometry or with another eps raise ValueError.
    """

    def __init__(self, model: PotentialModel, geometry: Geometry, eps: tuple[float, float]) -> None:
        self.model, self.geometry, self.eps = model, geometry, eps
        self._prepared = Prepared()
        self._matching: Geometry | None = None

    def _evaluate(self, problem: Problem) -> Iterator[Tensor] | Iterator[np.ndarray]:
        self._require_known_geometry(problem.geometry)
        self._require_known_eps(problem.eps)
        if isinstance(problem.eps, Tensor):
            flat = problem.flat()
            assert isinstance(flat.eps, Tensor)
            return self.model.at(flat.eps.float())(flat.a.float(), flat.b.float())
        evaluator, alone = self._prepared.at(self.model, problem.eps, problem.a.device)
        arrays = None if alone is None else _arrays(problem)
        if alone is None or arrays is None:
            flat = problem.flat()
            return evaluator(flat.a.float(), flat.b.float())
        return alone(*arrays)

    def _require_known_geometry(self, geometry: Geometry) -> None:
        if geometry is self.geometry or geometry is self._matching:
            return
        if not self.geometry.matches(geometry):
            raise ValueError(
                f"the model was trained on {self.geometry}, got a problem on {geometry}: "
                "build problems with `predictor.geometry`, or train a model for yours"
            )
        self._matching = geometry  # comparing takes longer than predicting

    def _require_known_eps(self, eps: Eps) -> None:
        low, high = self.eps[0] * (1 - 1e-6), self.eps[1] * (1 + 1e-6)
        if isinstance(eps, Tensor):
            bad = (eps < low) | (eps > high)
            where = first_place(bad, eps) if bad.any() else ""
        else:
            where = "" if low <= eps <= high else f" = {eps:.6g}"
        if where:
            raise ValueError(
                f"the model was trained for eps in [{self.eps[0]:g}, {self.eps[1]:g}], got eps{where}: "
                "train one for yours"
            )


def _arrays(problem: Problem) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the weights of one problem as vectors, float32; None for a batch and where numpy cannot read them."""
    try:
        a, b = problem.a.numpy(), problem.b.numpy()
    except (RuntimeError, TypeError):  # they take gradients, or are a transform's, or of a dtype of torch's own
        return None
    if a.size != a.shape[-1]:
        return None
    return a.reshape(-1).astype(np.float32), b.reshape(-1).astype(np.float32)


def in_shape(problem: Problem, f: Tensor | np.ndarray) -> Float[Tensor, "*batch n"]:
    """Return f in the dtype and the shape of the problem."""
    if isinstance(f, Tensor):
        return f.to(problem.a.dtype).reshape(problem.a.shape)
    like = problem.a.numpy()
    return torch.from_numpy(f.astype(like.dtype, copy=False).reshape(like.shape))
