"""One network for all pairs of measures on the plane, of any resolution and at any temperature."""

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.models.base import Exportable
from metaot.models.layers import TEMPERATURES, chebyshev
from metaot.models.parity import CLASSES, ParityBlock, ParityLinear, normal

_COVARIANCES = 5
"""What each class reads beside the cosine moments."""

_WARMEST, _COLDEST = 3.0, 0.01
"""The range of temperatures, in squared widths, that the network distinguishes."""


@final
class UniversalNetwork(Exportable):
    """A network between functions: moments of two measures in, coefficients of a potential out.

    Both measures are read in their own frames: centred, and in units of their common width. f is the closed form
    between Gaussians of the same means and covariances, plus what the network predicts: `modes` cosines of each
    axis. `metaot.amortize.plane` makes moments of measures, the closed form and values of functions. A prediction
    contains `passes` refinement steps: a Sinkhorn step and a correction that reads the missing marginal.
    Reflections, translations and scalings of the problem are exact symmetries of the answer.
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

    @property
    def refinements(self) -> int:
        """The number of refinement steps: `passes`, or `unrolled` in training."""
        return self.unrolled if self.training and self.unrolled is not None else self.passes

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
        temperature = chebyshev(_log_unit(eps))
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


def _log_unit(eps: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Map the logarithms of temperatures in squared widths to [-1, 1]."""
    low, high = math.log(_COLDEST), math.log(_WARMEST)
    return (eps.log() * (2 / (high - low)) - (low + high) / (high - low)).clamp(-1, 1)
