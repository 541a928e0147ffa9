"""A network for every problem on the plane: any grid, any cloud, any temperature."""

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from metaot import core
from metaot.amortize.plane import Encoding, Values, encode, require_plane, support
from metaot.amortize.predictor import StagedPredictor
from metaot.models.universal import UniversalNetwork
from metaot.potentials import sinkhorn_step
from metaot.problem import Problem


@final
class UniversalPotential(StagedPredictor):
    """Predicts on each `Grid` with two axes and on `Points` in the plane, with the cost "sqeuclidean".

    Units do not matter: the network reads measures of unit width. `eps` is the range of temperatures of the
    training, on the unit square; below it the prediction is worse, and `solve` replaces it where zeros are better.
    Other geometries raise ValueError.

    `solve` asks for no start where it goes coarse to fine on a grid: that takes less time than a prediction.
    """

    beats_coarse_to_fine = False

    def __init__(self, model: UniversalNetwork, eps: tuple[float, float]) -> None:
        self.model, self._eps = model, eps

    @property
    def eps(self) -> tuple[float, float]:
        return self._eps

    @property
    def domain(self) -> str:
        return "problems on any Grid with two axes or Points in the plane, cost 'sqeuclidean'"

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
        self._in_numpy = self._network is not predictor.model
        self._problem = problem.to(problem.a.double())
        self._by_core = self._in_numpy and self._problem.has_axes and self._problem.suits_core
        a, b = self._problem.a, self._problem.b
        if self._in_numpy:
            _, a, b, eps = self._arrays = self._problem.arrays()
        else:
            eps = torch.as_tensor(problem.eps, dtype=a.dtype, device=a.device).expand(len(a))
        atoms = support(problem.geometry, arrays=self._in_numpy)
        self._encoding: Encoding = encode(atoms, a, b, eps, predictor.model.modes)
        coefficients, *features = self._network(*self._encoding.inputs)
        self._features: list[Any] = features
        self.f: Values = self._encoding.potential(coefficients)

    def refine(self) -> None:
        """Make a refinement step."""
        if self._by_core:
            stepped, missing, _ = core.sinkhorn_step(*self._arrays, self.f, threads=torch.get_num_threads())
        else:
            found = sinkhorn_step(self._problem, _tensor(self.f))[:2]
            stepped, missing = (values.numpy() for values in found) if self._in_numpy else found
        correction = self._network.correct(self._encoding.frame.analysed(missing), *self._features)
        self.f = stepped + self._encoding.correction(correction)


def _tensor(values: Values) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(values)
