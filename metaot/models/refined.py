"""Iterative amortization: a prediction, and learnt Sinkhorn steps that see what is still wrong with it.

A network cannot know its own error; a Sinkhorn step shows it, as the marginal that is missing. The step
mends the high frequencies, which a network finds hard and Sinkhorn easy; a small network reads the low
frequencies of the missing marginal and mends these, which Sinkhorn finds hard (Marino, Yue and Mandt,
arXiv 1807.09356, for amortized inference).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from metaot.geometry import Geometry, Grid
from metaot.models.alone import TINY, CorrectionAlone, DecoderAlone, RefinedAlone, StepAlone, array, first, layer
from metaot.models.axes import Separable
from metaot.models.base import Evaluator, PotentialModel
from metaot.models.cosines import Cosines
from metaot.models.layers import TEMPERATURES, BlockAt, ModulatedBlock
from metaot.models.spectral import UNIT, SpectralAt, SpectralPotential, grid_sizes
from metaot.single import AxesKernel, step_on_grid_each


@final
class RefinedPotential(PotentialModel):
    """A `SpectralPotential` and `passes` corrected Sinkhorn steps, all with the same correction.

    `first` holds the settings of the spectral network. The prediction costs `passes` Sinkhorn steps beside
    its networks; `passes` may be set to another number after training, 0 for the spectral network alone. Training
    looks at `unrolled` passes, by default as many: the correction learns from one pass more what is left after it.
    `forward` is matrix products, exponentials and logarithms, without branches.
    """

    refines = True

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
        self.step = GridStep(sizes)
        self.correction = Correction(sizes, modes, self.first.config["width"], hidden)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "RefinedPotential":
        model = cls(sizes=grid_sizes(cls.__name__, geometry), eps=list(eps), **settings)
        assert isinstance(geometry, Grid)
        model.step.set_costs(geometry)
        return model

    def at(self, eps: Float[Tensor, "temperatures"]) -> "SpectralAt | RefinedAt":
        first = self.first.at(eps)
        passes = self.unrolled if self.training and self.unrolled is not None else self.passes
        if passes == 0:
            return first
        return RefinedAt(first, passes, self.step.at(eps), self.correction.at(self.first.temperature(eps)))

    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        self.first.standardise(a, b)


@final
@dataclass(frozen=True)
class RefinedAt(Evaluator):
    """A `RefinedPotential` at a temperature."""

    first: SpectralAt
    passes: int
    step: "StepAt"
    correction: "CorrectionAt"

    def __call__(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> Iterator[Float[Tensor, "batch n"]]:
        x = self.first.encode(a, b)
        f = self.first.decode(x)
        yield f
        for _ in range(self.passes):
            with torch.no_grad():
                stepped, missing = self.step(f, a, b)
            f = stepped + self.correction(x, missing)
            yield f

    def alone(self) -> RefinedAlone:
        return RefinedAlone(self.first.alone(), self.passes, self.step.alone(), self.correction.alone())


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

    def at(self, temperature: Float[Tensor, "k temperatures"]) -> "CorrectionAt":
        """Return the correction at a temperature, shared or one for each instance."""
        return CorrectionAt(
            sizes=self.cosines.sizes,
            analysis=self.cosines.analysis,
            inputs=(self.inputs.weight, self.inputs.bias),
            scale=self.scale(temperature),
            block=self.block.at(temperature),
            norm=(self.norm.weight, self.norm.bias),
            outputs=(self.outputs.weight, self.outputs.bias),
            damping=self.damping,
            modes=[self.cosines.modes] * len(self.cosines.sizes),
            synthesis=self.cosines.synthesis,
        )


@final
@dataclass(frozen=True)
class CorrectionAt:
    """A `Correction` at a temperature."""

    sizes: list[int]
    analysis: Separable
    inputs: tuple[Tensor, Tensor]
    scale: Float[Tensor, "k width"]
    block: BlockAt
    norm: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]
    damping: Float[Tensor, "count"]
    modes: list[int]
    synthesis: Separable

    def __call__(
        self, x: Float[Tensor, "batch width"], missing: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]:
        """Return what to add to f, from the features of the problem and the missing marginal."""
        moments = 100 * self.analysis(missing.reshape(-1, *self.sizes)).flatten(1)[:, 1:]
        size = (moments.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        x = self.block(torch.addcmul(x, linear(moments / size, *self.inputs), self.scale))
        coefficients = linear(torch.layer_norm(x, x.shape[1:], *self.norm), *self.outputs) * self.damping * size
        return self.synthesis(coefficients.reshape(-1, *self.modes)).flatten(1)

    def alone(self) -> CorrectionAlone:
        """Return the same in numpy, for one instance."""
        synthesis = self.synthesis.alone()
        return CorrectionAlone(
            analysis=self.analysis.alone(),
            inputs=layer(self.inputs),
            scale=first(self.scale),
            block=self.block.alone(),
            decode=DecoderAlone(layer(self.norm), layer(self.outputs), array(self.damping), synthesis),
        )


@final
class GridStep(nn.Module):
    """One Sinkhorn step in float64 as plain matrix products on the axes of a grid.

    Where these leave floating point, row by row, and sums are kept above 1e-300 where `Grid.softmin` would start
    again in the log domain: the same numbers unless mass is far from where potentials are high.
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

    def at(self, eps: Float[Tensor, "temperatures"]) -> "StepAt":
        """Return the step at a temperature, shared or one for each instance."""
        scale = eps.double()[:, None, None]
        costs = [self._cost(axis) for axis in range(len(self.sizes))]
        kernels = Separable.of([(-cost / scale).exp() for cost in costs])
        return StepAt(self.sizes, scale.reshape(-1, *[1] * len(self.sizes)), kernels, costs)

    def _cost(self, axis: int) -> Float[Tensor, "size size"]:
        return getattr(self, f"cost{axis}")


@final
@dataclass(frozen=True)
class StepAt:
    """A `GridStep` at a temperature."""

    sizes: list[int]
    scale: Float[Tensor, "k *ones"]
    kernels: Separable
    costs: list[Tensor]

    def __call__(
        self, f: Float[Tensor, "batch n"], a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """Return the next f and the marginal a - P 1 that the plan of f misses, float32."""
        found = self._on_axes(f, a, b) if f.is_cpu and self.scale.numel() == 1 else None
        return self._anywhere(f, a, b) if found is None else found

    @cached_property
    def kernel(self) -> AxesKernel:
        """The kernel at the only temperature there is, in numpy."""
        return AxesKernel([cost.numpy() / float(self.scale) for cost in self.costs])

    def _on_axes(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the same by compiled code; None where products are not right."""
        eps, threads = float(self.scale), torch.get_num_threads()
        a, b, start = (values.detach().double() for values in (a, b, f))
        found = step_on_grid_each(self.kernel, a.numpy(), b.numpy(), start.numpy() / eps, threads=threads)
        if len(found.lost):
            return None
        return torch.from_numpy(found.f * eps).float(), torch.from_numpy(found.missing).float()

    def _anywhere(
        self, f: Float[Tensor, "batch n"], a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        f, a, b = (value.double().reshape(-1, *self.sizes) for value in (f, a, b))
        start = f / self.scale
        top = start.amax(-1, keepdim=True)
        sums, top = self._transform(a * (start - top).exp(), top)
        lowest = sums.amin(-1, keepdim=True)
        sums, top = self._transform(b * (lowest / sums), -(top + lowest.log()))
        after = -(top + sums.log())
        missing = torch.addcmul(a, a, (start - after).clamp_max(600).exp(), value=-1)
        return (after * self.scale).flatten(1).float(), missing.flatten(1).float()

    def alone(self) -> StepAlone:
        """Return the same in numpy, for one instance."""
        *others, last = map(first, self.kernels.matrices)
        return StepAlone(self.sizes, float(self.scale), [*others, last.T], self.kernel)

    def _transform(
        self, weights: Float[Tensor, "batch *sizes"], top: Float[Tensor, "batch *rows"]
    ) -> tuple[Float[Tensor, "batch *sizes"], Float[Tensor, "batch *ones"]]:
        """Return sums and highest so that log sum_i w_i exp(top_i - C_ij/eps) = highest + log sums_j.

        `top` has one number for each row along the last axis, `highest` one for each instance.
        """
        last = len(self.sizes) - 1
        sums = self.kernels.along(weights, last)
        for axis in range(last - 1, -1, -1):
            highest = top.amax(axis + 1, keepdim=True)
            sums = self.kernels.along(sums * (top - highest).exp(), axis)
            top = highest
        return sums.clamp_min(TINY), top
