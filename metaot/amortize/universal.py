"""A network for every problem on the plane: any grid, any cloud, any temperature."""

from collections.abc import Iterator
from itertools import islice
from statistics import fmean
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.coarse import coarsened
from metaot.amortize.plane import Encoding, Values, encode, require_plane, support
from metaot.amortize.predictor import StagedPredictor, in_shape
from metaot.models.universal import UniversalNetwork
from metaot.potentials import sinkhorn_step
from metaot.problem import Problem

_ENOUGH = 0.03
"""Share of the mass that plans may miss when a start is made of them: from there a solver is as quick."""


@final
class UniversalPotential(StagedPredictor):
    """Predicts on each `Grid` with two axes and on `Points` in the plane, with the cost "sqeuclidean".

    Units do not matter: the network reads measures of unit width. `eps` is the range of temperatures of the
    training, on the unit square; below it the prediction is worse, and `solve` replaces it where zeros are better.
    Other geometries raise ValueError.

    A warm start on a grid finer than potentials have detail, for eps, is predicted on every second point of its
    axes, where refinement steps are cheap: at most `coarse_steps`, made while plans miss much of the mass. Half a
    Sinkhorn step leads back to all points, and a refinement step follows if the plans missed too much. A predictor
    whose `passes` is 0 makes no refinement steps there either.
    """

    coarse_steps = 4

    def __init__(self, model: UniversalNetwork, eps: tuple[float, float]) -> None:
        self.model, self.eps = model, eps

    def warm_start(self, problem: Problem) -> Float[Tensor, "*batch n"]:
        flat = problem.flat()
        require_plane(flat.geometry)
        coarse = coarsened(flat)
        if coarse is None:
            count = min(self.start_steps, self.passes)
            *_, f = islice(self._stages(flat), count + 1)
            return in_shape(problem, f)
        staged = _Staged(self, coarse.problem)
        missed = [0.0] * len(flat.a)
        for _ in range(self.coarse_steps if self.passes else 0):
            missed = abs(staged.refine()).sum(axis=1).tolist()
            if fmean(missed) <= _ENOUGH:
                break
        f = coarse.lifted(_tensor(staged.f))
        left = [k for k, share in enumerate(missed) if share > _ENOUGH]
        if left:
            f[left] = _tensor(staged.moved(flat, f, left))
        return in_shape(problem, f)

    def _stages(self, flat: Problem) -> Iterator[Tensor]:
        require_plane(flat.geometry)
        staged = _Staged(self, flat)
        yield _tensor(staged.f)
        for _ in range(self.model.refinements):
            staged.refine()
            yield _tensor(staged.f)


class _Staged:
    """A prediction that is refined: f, and how it is seen by the network; of arrays on CPUs, else of tensors."""

    def __init__(self, predictor: UniversalPotential, problem: Problem) -> None:
        self._network = predictor._network(problem)
        self._arrays = self._network is not predictor.model
        self._problem = problem.to(problem.a.double())
        eps = torch.as_tensor(problem.eps, dtype=torch.float64, device=problem.a.device).expand(len(problem.a))
        a, b, eps = (v.detach().numpy() if self._arrays else v for v in (problem.a, problem.b, eps))
        self._encoding: Encoding = encode(
            support(problem.geometry, arrays=self._arrays), a, b, eps, predictor.model.modes
        )
        coefficients, *features = self._network(*self._encoding.inputs)
        self._features: list[Any] = features
        self.f: Values = self._encoding.potential(coefficients)

    def refine(self) -> Values:
        """Make a refinement step; return the marginal that plans missed before."""
        stepped, missing, _ = sinkhorn_step(self._problem, _tensor(self.f))
        if self._arrays:
            stepped, missing = stepped.numpy(), missing.numpy()
        correction = self._network.correct(self._encoding.frame.analysed(missing), *self._features)
        self.f = stepped + self._encoding.correction(correction)
        return missing

    def moved(self, problem: Problem, f: Tensor, index: list[int]) -> Values:
        """Return f of some of the problems after a refinement step on other atoms."""
        part, (x, temperature) = problem[index], self._features
        self._problem, self._features = part.to(part.a.double()), [x[:, index], temperature[index]]
        self._encoding = self._encoding.on(support(part.geometry, arrays=self._arrays), index)
        self.f = f[index]
        self.refine()
        return self.f


def _tensor(values: Values) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values)
