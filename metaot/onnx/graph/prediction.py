"""What is exported of a model on one geometry: from weights and a temperature to both potentials."""

from typing import final

from torch import Tensor, nn

from metaot.models import GroupedPotential, PotentialModel
from metaot.models.base import FEATURES
from metaot.onnx.graph.spaces import Space


@final
class Prediction(nn.Module):
    """(a, b, eps) -> (f, g, right), float64: the network with its refinement steps, and the c-transform.

    eps is one for each instance, or one for the batch. `right` is whether the sums of the space were; `exact`
    takes sums that always are, and there is no `right`.
    """

    def __init__(self, model: PotentialModel, space: Space, *, exact: bool = False) -> None:
        super().__init__()
        if isinstance(model, GroupedPotential) and model.passes > 0:
            raise ValueError(
                f"the {model.passes} Newton steps inside of predictions cannot be exported, ONNX solves no linear "
                "systems: predictor.passes = 0 (--passes 0) gives the network alone, which solvers refine as well"
            )
        self.model, self.space, self.exact = model, space, exact

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        each = (eps + a[:, 0] * 0).float()
        f, *features = self.model(*self.model.read(a.float(), b.float(), each))[:FEATURES]
        a, b, f = (self.space.shaped(values) for values in (a, b, f.double()))
        others = self.space.others
        sums = others(eps) if self.exact and others is not None else self.space.sums(eps)
        for _ in range(self.model.passes):
            stepped, missing = sums.step(f, a, b)
            f = stepped + self.model.correct(missing.float().flatten(1), *features).reshape(stepped.shape)
        f, g = f.flatten(1), sums.best_g(f, a).flatten(1)
        return (f, g) if self.exact or others is None else (f, g, finite(f, g))


def finite(f: Tensor, g: Tensor) -> Tensor:
    """Return whether all numbers are finite."""
    return (f.sum() + g.sum()).isfinite()
