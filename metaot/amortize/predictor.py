"""A network with the geometry and temperatures it was trained on: f from the network, g in closed form."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Eps, Geometry
from metaot.geometry.checks import first_place
from metaot.models import Network, PotentialModel
from metaot.potentials import DualPotentials
from metaot.problem import Problem, require_balanced
from metaot.solvers import Newton, Solver, solve

_ENOUGH = 1e-3
"""L1 error at which steps on smaller problems end: what they leave out makes a larger one."""


class Predictor(ABC):
    """Anything that guesses the solution of problems.

    `predict` gives the guess, and `warm_start` what `solve(problem, init=predictor)` starts from: f of the guess,
    or of a cheaper one where more work on it would cost more time than it saves the solver. A start that does not
    help is replaced by the solver.
    """

    beats_coarse_to_fine = True
    """Whether `solve` asks for a start on grids where it goes coarse to fine."""

    @property
    def geometry(self) -> Geometry | None:
        """The space of the problems that it is for; None where it is for several."""
        return None

    @property
    def eps(self) -> tuple[float, float] | None:
        """The range (lowest, highest) of temperatures that it was trained for; None for any."""
        return None

    @property
    def domain(self) -> str:
        """The problems that it is for, in words."""
        return "problems of any kind"

    @abstractmethod
    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess; of its potentials g is the best for f."""

    def warm_start(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        """Return the potential f to start a solver from, which may overwrite it; solvers make g themselves."""
        return self.predict(problem).f

    def __repr__(self) -> str:
        return f"{type(self).__name__} for {self.domain}{trained_for(self.eps)}"


def trained_for(eps: tuple[float, float] | None) -> str:
    """Return the temperatures of a predictor in words, to follow its problems."""
    if eps is None:
        return ", any eps"
    low, high = eps
    return f", eps {low:g}" if low == high else f", eps from {low:g} to {high:g}"


class StagedPredictor(Predictor):
    """A network that predicts f and improves it by refinement steps; g in closed form.

    A refinement step is a Sinkhorn step and a learnt correction. A prediction contains `passes` of them, a warm
    start at most `start_steps`.
    """

    model: Any
    """An `Exportable`."""
    fast: Any = None
    """The network as onnxruntime evaluates it, where there is one: a `metaot.onnx.compiled.OnnxNetwork`."""
    start_steps = 1
    """The most refinement steps in a warm start: more, where a solver's own steps are cheaper, cost time."""

    @abstractmethod
    def _stages(self, flat: Problem) -> Iterator[Tensor]:
        """Yield f after each refinement step, computed on demand; ValueError for problems of another kind."""

    def _network(self, flat: Problem) -> Network:
        """Return what evaluates the network for these problems."""
        if self.fast is None:
            return self.model
        eps = (flat.eps,) if isinstance(flat.eps, Tensor) else ()
        return self.fast.of(self.model, flat.a, flat.b, *eps) or self.model

    @property
    def passes(self) -> int:
        """The number of refinement steps in a prediction; a model that refines may be given another one."""
        return self.model.passes

    @passes.setter
    def passes(self, count: int) -> None:
        if count < 0 or (count > 0 and not self.model.refines):
            raise ValueError(f"passes must be >= 0, and 0 for a {type(self.model).__name__}, got {count}")
        self.model.passes = count

    def predict(self, problem: Problem) -> DualPotentials:
        *_, f = self._stages(require_balanced(problem, "a model").flat())
        return DualPotentials.from_f(problem, in_shape(problem, f))

    def warm_start(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        *_, f = islice(self._stages(require_balanced(problem, "a model").flat()), self.start_steps + 1)
        return in_shape(problem, f)

    def stages(self, problem: Problem) -> list[Float[Tensor, "*batch n"]]:
        """Return f of the network and after each refinement step, in the dtype of the problem."""
        return [in_shape(problem, f) for f in self._stages(require_balanced(problem, "a model").flat())]


@final
class AmortizedPotential(StagedPredictor):
    """A network (a, b, eps) -> f with the problems that it is for.

    `geometry` is the space and `eps` the range (lowest, highest) of temperatures of the training. Problems
    on another geometry or with another eps raise ValueError.
    """

    def __init__(self, model: PotentialModel, geometry: Geometry, eps: tuple[float, float]) -> None:
        self.model, self._geometry, self._eps = model, geometry, eps
        self._matching: Geometry | None = None

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def eps(self) -> tuple[float, float]:
        return self._eps

    @property
    def domain(self) -> str:
        return f"problems on {self.geometry}"

    def _stages(self, flat: Problem) -> Iterator[Tensor]:
        self._require_known_geometry(flat.geometry)
        self._require_known_eps(flat.eps)
        stages = self.model.stages(flat, self._network(flat))
        yield (f := next(stages))
        for f in stages:
            yield f
        smaller = self.model.smaller(flat) if self.passes and not self.model.training else None
        if smaller is not None:
            yield refined(smaller, f, Newton(), self.passes).f.to(f)

    def _require_known_geometry(self, geometry: Geometry) -> None:
        if geometry is self.geometry or geometry is self._matching:
            return
        if not self.geometry.matches(geometry):
            raise ValueError(
                f"the model was trained on {self.geometry}, got a problem on {geometry}"
                f"{self.geometry.difference(geometry)}: "
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


def refined(smaller: Problem, f: Tensor, solver: Solver, max_steps: int) -> DualPotentials:
    """Return potentials after steps from f on a smaller problem, flat as f is."""
    start = DualPotentials(f.to(smaller.a), torch.zeros_like(smaller.b))
    return solve(smaller, init=start, solver=solver, tol=_ENOUGH, max_steps=max_steps).potentials


def in_shape(problem: Problem, f: Tensor) -> Float[Tensor, "*batch n"]:
    """Return f in the dtype and the shape of the problem."""
    return f.to(problem.a.dtype).reshape(problem.a.shape)
