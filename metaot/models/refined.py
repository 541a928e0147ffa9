"""Iterative amortization: a prediction, and learnt Sinkhorn steps that read its remaining error.

A network cannot know its own error; a Sinkhorn step shows it, as the missing marginal. The step mends the high
frequencies, which a network finds hard and Sinkhorn easy; a small network reads the low frequencies of the
missing marginal and mends them, which Sinkhorn finds hard (Marino, Yue and Mandt, arXiv 1807.09356, for
amortized inference).
"""

from collections.abc import Iterator
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry
from metaot.models.base import Network, PotentialModel
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, ModulatedBlock
from metaot.models.spectral import UNIT, SpectralPotential, grid_sizes
from metaot.potentials import SinkhornStep
from metaot.problem import Problem


@final
class RefinedPotential(PotentialModel):
    """A `SpectralPotential` and `passes` refinement steps, all with the same correction.

    A refinement step is a Sinkhorn step and a correction. `first` holds the settings of the spectral network.
    `passes` may be set to another number after training, 0 for the spectral network without refinement. Training
    makes `unrolled` refinement steps, by default as many.
    """

    refines, corrects = True, True

    def __init__(
        self,
        sizes: list[int],
        eps: list[float],
        *,
        first: dict[str, Any] | None = None,
        passes: int = 2,
        unrolled: int | None = None,
        modes: int = 14,
        hidden: int = 192,
    ) -> None:
        super().__init__()
        self.config = {
            "sizes": sizes, "eps": eps, "first": first or {},
            "passes": passes, "unrolled": unrolled, "modes": modes, "hidden": hidden,
        }  # fmt: skip
        self.passes, self.unrolled = passes, unrolled
        self.first = SpectralPotential(sizes, eps, **(first or {}))
        self.bounds, self.sizes = self.first.bounds, self.first.sizes
        self.correction = Correction(sizes, modes, self.first.config["width"], hidden)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "RefinedPotential":
        return cls(sizes=grid_sizes(cls.__name__, geometry), eps=list(eps), **settings)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.first(*inputs)

    def correct(self, missing: Tensor, *features: Tensor) -> Tensor:
        return self.correction(missing, *features)

    def stages(self, problem: Problem, network: Network) -> Iterator[Float[Tensor, "batch n"]]:
        f, *features = network(*self.inputs_of(problem))
        yield f
        step = SinkhornStep(problem)
        for _ in range(self.unrolled if self.training and self.unrolled is not None else self.passes):
            stepped, missing, _ = step(f)
            f = stepped.to(f) + network.correct(missing.float(), *features)
            yield f

    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        self.first.standardise(a, b)


@final
class Correction(nn.Module):
    """A small network from features of the problem and the missing marginal to a smooth correction of f.

    The correction scales with the marginal: nothing is missing, nothing is corrected.
    """

    def __init__(self, sizes: list[int], modes: int, width: int, hidden: int) -> None:
        super().__init__()
        self.cosines = Cosines(sizes, modes)
        self.register_buffer("damping", 0.2 * UNIT * self.cosines.damping(), persistent=False)
        self.damping: Tensor
        self.inputs = nn.Linear(self.cosines.count - 1, width)
        self.scale = nn.Linear(TEMPERATURES, width)
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)
        self.block = ModulatedBlock(width, hidden)
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, self.cosines.count)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(
        self,
        missing: Float[Tensor, "batch n"],
        x: Float[Tensor, "batch width"],
        temperature: Float[Tensor, "batch temperatures"],
    ) -> Float[Tensor, "batch n"]:
        """Return what to add to f."""
        moments = 100 * self.cosines.moments(missing)[:, 1:]
        size = (moments.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        x = self.block(x + self.inputs(moments / size) * self.scale(temperature), temperature)
        coefficients = self.outputs(self.norm(x)) * self.damping * size
        return self.cosines.function(coefficients)
