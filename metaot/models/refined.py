"""Iterative amortization: a prediction, and learnt Sinkhorn steps that see what is still wrong with it.

A network cannot know its own error; a Sinkhorn step shows it, as the marginal that is missing. The step
mends the high frequencies, which a network finds hard and Sinkhorn easy; a small network reads the low
frequencies of the missing marginal and mends these, which Sinkhorn finds hard (Marino, Yue and Mandt,
arXiv 1807.09356, for amortized inference).
"""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid
from metaot.models.base import PotentialModel
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, ModulatedBlock
from metaot.models.spectral import UNIT, SpectralPotential, grid_sizes


@final
class RefinedPotential(PotentialModel):
    """A `SpectralPotential` and `passes` corrected Sinkhorn steps, all with the same correction.

    `first` holds the settings of the spectral network. The prediction costs `passes` Sinkhorn steps beside
    its networks; `passes` may be set to another number after training, 0 for the spectral network alone.
    `forward` is matrix products, exponentials and logarithms, without branches.
    """

    def __init__(
        self,
        sizes: list[int],
        eps: list[float],
        *,
        first: dict[str, Any] | None = None,
        passes: int = 2,
        modes: int = 14,
        hidden: int = 192,
    ) -> None:
        super().__init__()
        self.config = {
            "sizes": sizes, "eps": eps, "first": first or {},
            "passes": passes, "modes": modes, "hidden": hidden,
        }  # fmt: skip
        self.passes = passes
        self.first = SpectralPotential(sizes, eps, **(first or {}))
        self.step = GridStep(sizes)
        self.correction = Correction(sizes, modes, self.first.config["width"], hidden)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "RefinedPotential":
        model = cls(sizes=grid_sizes(cls.__name__, geometry), eps=list(eps), **settings)
        assert isinstance(geometry, Grid)
        model.step.set_costs(geometry)
        return model

    def stages(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> list[Float[Tensor, "batch n"]]:
        temperature = self.first.temperature(eps)
        x = self.first.encode(a, b, temperature)
        stages = [self.first.decode(x, temperature)]
        for _ in range(self.passes):
            with torch.no_grad():
                stepped, missing = self.step(stages[-1], a, b, eps)
            stages.append(stepped + self.correction(x, missing, temperature))
        return stages

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
        x: Float[Tensor, "batch width"],
        missing: Float[Tensor, "batch n"],
        temperature: Float[Tensor, "batch temperatures"],
    ) -> Float[Tensor, "batch n"]:
        moments = 100 * self.cosines.moments(missing)[:, 1:]
        size = (moments.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        x = self.block(x + self.inputs(moments / size) * self.scale(temperature), temperature)
        return self.cosines.function(self.outputs(self.norm(x)) * self.damping * size)


@final
class GridStep(nn.Module):
    """One Sinkhorn step in float64 as plain matrix products on the axes of a grid, without branches.

    Sums are kept above 1e-300 where `Grid.softmin` would start again in the log domain: the same numbers
    unless potentials vary by some hundred eps and mass is far from where they are high.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        for axis, size in enumerate(sizes):
            self.register_buffer(f"cost{axis}", torch.zeros(size, size, dtype=torch.float64))

    def set_costs(self, grid: Grid) -> None:
        """Take the costs of the axes of a grid; ValueError unless they are symmetric."""
        for axis, cost in enumerate(grid.axis_costs):
            if not torch.equal(cost, cost.mT):
                raise ValueError(f"the refined model wants a symmetric cost, got another on axis {axis} of {grid}")
            self._cost(axis).copy_(cost)

    def forward(
        self,
        f: Float[Tensor, "batch n"],
        a: Float[Tensor, "batch n"],
        b: Float[Tensor, "batch m"],
        eps: Float[Tensor, "batch"],
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """Return the next f and the marginal a - P 1 that the plan of f misses, float32."""
        scale = eps.double()[:, None]
        kernels = [(-self._cost(axis) / scale[:, :, None]).exp() for axis in range(len(self.sizes))]
        start = f.double() / scale
        after = self._transform(self._transform(start, a, kernels), b, kernels)
        missing = a * (1 - (start - after).clamp_max(600).exp())
        return (after * scale).float(), missing.float()

    def _transform(
        self, z: Float[Tensor, "batch n"], weights: Float[Tensor, "batch n"], kernels: list[Tensor]
    ) -> Float[Tensor, "batch m"]:
        """Return -log sum_i w_i exp(z_i - C_ij/eps)."""
        shape = (-1, *self.sizes)
        z = z.reshape(shape)
        top = z.amax(-1, keepdim=True)
        sums = weights.reshape(shape) * (z - top).exp()
        for axis in range(len(kernels) - 1, -1, -1):
            highest = top.amax(axis + 1, keepdim=True)
            sums = (sums * (top - highest).exp()).movedim(axis + 1, -1)
            rows = sums.reshape(sums.shape[0], -1, sums.shape[-1]) @ kernels[axis]
            sums, top = rows.reshape(sums.shape).movedim(-1, axis + 1), highest
        return -(top + sums.clamp_min(_TINY).log()).flatten(1)

    def _cost(self, axis: int) -> Float[Tensor, "size size"]:
        return getattr(self, f"cost{axis}")


_TINY = 1e-300
