"""What is exported of a model of potentials: from weights and a temperature to both potentials."""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from metaot.amortize.plane import GridSupport, encode
from metaot.models import GroupedPotential, PotentialModel
from metaot.models.base import FEATURES
from metaot.models.universal import UniversalNetwork
from metaot.onnx.graph.sums import LogSums, PlainSums, Space, Sums


class Prediction(nn.Module):
    """(a, b, eps) -> (f, g, right), float64: the network with its refinement steps, and the c-transform.

    eps is one for each instance, or one for the batch. `right` is whether all numbers stay in floating point. It
    is missing where they always do, and in an `exact` graph, whose sums are in the log domain.
    """

    def __init__(self, model: nn.Module, *, exact: bool, fallback: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.exact, self.fallback = exact, fallback

    def refined(
        self, f: Tensor, a: Tensor, b: Tensor, sums: Sums, correction: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the outputs of the graph, in the shape of f."""
        for _ in range(self.model.passes):
            stepped, missing = sums.step(f, a, b)
            f = stepped + correction(missing)
        g = sums.best_g(f, a)
        return (f, g, (f.sum() + g.sum()).abs() < torch.inf) if self.fallback and not self.exact else (f, g)


@final
class SpacePrediction(Prediction):
    """A model on one geometry: weights batch n and batch m."""

    def __init__(self, model: PotentialModel, space: Space, *, exact: bool = False) -> None:
        super().__init__(model, exact=exact, fallback=space.fallback)
        if isinstance(model, GroupedPotential) and model.passes > 0:
            raise ValueError(
                f"the {model.passes} Newton steps inside of predictions cannot be exported, ONNX solves no linear "
                "systems: predictor.passes = 0 (--passes 0) gives the bare network, which solvers refine as well"
            )
        self.space = space

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        each = (eps + a[:, 0] * 0).float()
        first, *features = self.model(*self.model.read(a.float(), b.float(), each))[:FEATURES]
        shaped, sums = self.space.shaped, self.space.sums(eps, exact=self.exact)

        def correction(missing: Tensor) -> Tensor:
            return shaped(self.model.correct(missing.float().flatten(1), *features))

        f, g, *right = self.refined(shaped(first).double(), shaped(a), shaped(b), sums, correction)
        return f.flatten(1), g.flatten(1), *right


@final
class ImagePrediction(Prediction):
    """The universal network: images, batch height width, of any size on the unit square."""

    def __init__(self, model: UniversalNetwork, *, exact: bool = False) -> None:
        super().__init__(model, exact=exact, fallback=True)

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        rows, columns = _axis(a, 1), _axis(a, 2)
        each = eps + a[:, 0, 0] * 0
        encoding = encode(GridSupport(rows, columns), a.flatten(1), b.flatten(1), each, self.model.modes)
        coefficients, x, temperature = self.model(*encoding.inputs)
        costs = (rows[:, None] - rows).square(), (columns[:, None] - columns).square()
        sums = LogSums(eps, costs) if self.exact else PlainSums(eps, costs, (0, 1))

        def correction(missing: Tensor) -> Tensor:
            moments = encoding.frame.analysed(missing.flatten(1))
            return encoding.correction(self.model.correct(moments, x, temperature)).reshape(a.shape)

        return self.refined(encoding.potential(coefficients).reshape(a.shape), a, b, sums, correction)


def _axis(images: Tensor, dim: int) -> Tensor:
    """Return the coordinates of the pixels along an axis, evenly spaced from 0 to 1."""
    places = torch.arange(images.shape[dim], dtype=torch.float64)
    return places / places[-1:].clamp_min(1)
