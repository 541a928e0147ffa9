"""One network for all pairs of measures on the plane, of any resolution and at any temperature.

Its layers commute with reflections of both axes. Features have four classes: even or odd along the first axis, and
along the second. A reflection changes the sign of the two classes that are odd along its axis. A linear map that
keeps the classes apart commutes with that, at a quarter of the weights. A pointwise function does so when it is
applied to the four mirror images, which are the sums and differences of the classes.
"""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from metaot.models.base import TEMPERATURES, Exportable, chebyshev, log_unit, require_settings

CLASSES = 4
"""(even, even), (even, odd), (odd, even), (odd, odd)."""

_SIGNS = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
_TINY = 1e-6

_COVARIANCES = 5
"""What each class reads beside the cosine moments."""

_TEMPERATURES = (0.01, 3.0)
"""The range of temperatures, in squared widths, that the network distinguishes."""


@final
class UniversalNetwork(Exportable):
    """A network between functions: moments of two measures in, coefficients of a potential out.

    Both measures are read in their own frames: centred, and in units of their common width. f is the closed form
    between Gaussians of the same means and covariances, plus what the network predicts: `modes` cosines of each
    axis. `metaot.amortize.plane` makes moments of measures, the closed form and values of functions. A prediction
    contains `passes` refinement steps: a Sinkhorn step and a correction that reads the missing marginal.
    Reflections, translations and scalings of the problem are exact symmetries of the answer.

    Args:
        modes: cosines of each axis that the network reads of both measures and writes of f; an even number.
        width: features of each of the four classes in a residual layer.
        hidden: units inside each residual layer.
        depth: residual layers.
        correction: units inside the layer of a refinement step.
        passes: refinement steps in a prediction.
        unrolled: refinement steps in training; null for as many as in a prediction.
    """

    refines, corrects = True, True

    def __init__(
        self,
        *,
        modes: int = 20,
        width: int = 192,
        hidden: int = 256,
        depth: int = 3,
        correction: int = 160,
        passes: int = 1,
        unrolled: int | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "modes": modes, "width": width, "hidden": hidden, "depth": depth,
            "correction": correction, "passes": passes, "unrolled": unrolled,
        }  # fmt: skip
        require_settings(type(self), self.config)
        if modes % 2:
            raise ValueError(f"modes must be even, as many even as odd ones, got {modes}")
        self.modes, self.passes, self.unrolled = modes, passes, unrolled
        count = (modes // 2) ** 2
        frequencies = torch.arange(modes, dtype=torch.float32).square()
        smooth = by_parity(1 + frequencies[None, None, :, None] + frequencies)
        self.register_buffer("emphasis", smooth**0.35, persistent=False)
        damping = 1 / smooth
        damping[0, 0, 0] = 0  # a constant in f means nothing: it is not learnt, and would be noise
        self.register_buffer("damping", damping, persistent=False)
        by_class = torch.zeros(6, CLASSES, _COVARIANCES, dtype=torch.float32)
        by_class[[0, 2, 3, 5, 1, 4], [0, 0, 0, 0, 3, 3], [0, 1, 2, 3, 3, 4]] = 1
        self.register_buffer("by_class", by_class.permute(1, 0, 2), persistent=False)
        even = torch.tensor([1.0, 0, 0, 0], dtype=torch.float32)
        self.register_buffer("even", even[:, None, None], persistent=False)
        self.emphasis: Tensor
        self.damping: Tensor
        self.by_class: Tensor
        """From both covariances to what each class reads: xx and yy in the even one, xy in the odd one."""
        self.even: Tensor
        """From a number for each instance to what each class reads: nothing, but for the even one."""
        self.inputs = ParityLinear(2 * count + _COVARIANCES, width)
        self.of_eps = nn.Linear(TEMPERATURES, width, dtype=torch.float32)
        self.blocks = nn.ModuleList(ParityBlock(width, hidden) for _ in range(depth))
        self.outputs = ParityLinear(width, count, gain=0.3)
        self.gain = nn.Linear(TEMPERATURES, count, dtype=torch.float32)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)
        self.missing = ParityLinear(count + 1, width)
        self.corrector = ParityBlock(width, correction)
        self.correction = ParityLinear(width, count, gain=0.05)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        moments = torch.ones(2, batch, self.modes, self.modes, dtype=torch.float32)
        covariance = torch.tensor([1.0, 0.1, 0.5], dtype=torch.float32).expand(2, batch, 3)
        return moments, covariance, torch.full((batch,), 0.3, dtype=torch.float32)

    def forward(  # type: ignore[override], the inputs by name
        self,
        moments: Float[Tensor, "2 batch modes modes"],
        covariance: Float[Tensor, "2 batch 3"],
        eps: Float[Tensor, "batch"],
    ) -> tuple[Tensor, ...]:
        """Return the cosine coefficients of f, and the features x and temperature.

        Moments and covariances (xx, xy, yy) are those of source and target in units of their common width, eps and
        f in squared widths.
        """
        temperature = chebyshev(log_unit(eps, _TEMPERATURES).clamp(-1, 1))
        emphasised = self.emphasis.repeat(1, 1, 2) * by_parity(moments)
        covariances = covariance.transpose(0, 1).reshape(-1, 6) @ self.by_class
        x = self.inputs(torch.cat([emphasised, covariances], -1)) + self.even * self.of_eps(temperature)
        for block in self.blocks:
            x = block(x, temperature)
        coefficients = self.outputs(normal(x)) * (self.damping * self.gain(temperature))
        return from_parity(coefficients), x, temperature

    def correct(  # type: ignore[override], the features by name
        self,
        missing: Float[Tensor, "batch modes modes"],
        x: Float[Tensor, "4 batch width"],
        temperature: Float[Tensor, "batch temperatures"],
    ) -> Float[Tensor, "batch modes modes"]:
        """Return the coefficients of what to add to f, for the moments of the missing marginal of the source."""
        moments = by_parity(missing[None]) * (100 * self.emphasis)
        size = (moments.square().mean((0, 2), keepdim=True) + 1e-6).sqrt()
        x = x + self.missing(torch.cat([moments / size, self.even * size.log()], -1))
        x = self.corrector(x, temperature)
        return from_parity(self.correction(normal(x)) * self.damping * size)


def by_parity(tables: Float[Tensor, "k batch modes modes"]) -> Float[Tensor, "4 batch count"]:
    """Sort the coefficients of k functions of each instance into classes; those of one function stay together."""
    k, half = tables.shape[0], tables.shape[-1] // 2
    classes = tables.reshape(k, -1, half, 2, half, 2).permute(3, 5, 1, 0, 2, 4)
    return classes.reshape(CLASSES, -1, k * half * half)


def from_parity(coefficients: Float[Tensor, "4 batch count"]) -> Float[Tensor, "batch modes modes"]:
    """Undo `by_parity` of one function."""
    half = math.isqrt(coefficients.shape[-1])
    table = coefficients.reshape(2, 2, -1, half, half).permute(2, 3, 0, 4, 1)
    return table.reshape(-1, 2 * half, 2 * half)


@final
class ParityLinear(nn.Module):
    """A linear map for each class; a constant is even, so that only the first class has a bias."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(CLASSES, inputs, outputs, dtype=torch.float32)
        self.weight = nn.Parameter(weight * (gain / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "4 batch inputs"]) -> Float[Tensor, "4 batch outputs"]:
        return x @ self.weight + torch.stack([self.bias, *[torch.zeros_like(self.bias)] * (CLASSES - 1)])[:, None]


def normal(x: Float[Tensor, "4 batch width"]) -> Float[Tensor, "4 batch width"]:
    """Scale all features of an instance to a mean square of one."""
    return x / (x.square().mean((0, 2), keepdim=True) + _TINY).sqrt()


def mirrored(x: Float[Tensor, "4 batch width"]) -> Float[Tensor, "4 batch width"]:
    """Turn classes into mirror images, or mirror images into classes: its own inverse."""
    signs = torch.tensor(_SIGNS, dtype=x.dtype, device=x.device) / 2
    return (signs @ x.flatten(1)).reshape(x.shape)


@final
class ParityBlock(nn.Module):
    """A residual gated layer, as `ModulatedBlock`, that commutes with reflections."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES, 1, width, dtype=torch.float32))
        self.modulation = nn.Linear(TEMPERATURES, width, bias=False, dtype=torch.float32)
        self.inner = ParityLinear(width, 2 * hidden)
        self.outer = ParityLinear(hidden, width, gain=0.5)
        nn.init.zeros_(self.modulation.weight)

    def forward(
        self, x: Float[Tensor, "4 batch width"], temperature: Float[Tensor, "batch temperatures"]
    ) -> Float[Tensor, "4 batch width"]:
        inner = self.inner(normal(x) * (self.scale * (1 + self.modulation(temperature))))
        gate, value = mirrored(inner).chunk(2, -1)
        return x + self.outer(mirrored(gelu(gate) * value))
