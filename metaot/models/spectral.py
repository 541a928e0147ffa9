"""Networks between functions on a grid: cosine moments of both measures in, cosine coefficients of f out.

`RefinedPotential` adds iterative amortization (Marino, Yue and Mandt, arXiv 1807.09356): learnt Sinkhorn steps,
which read the remaining error. A network cannot know its own error; a Sinkhorn step shows it, as the missing
marginal. The step corrects the high frequencies, which are hard for a network. A small network reads the low
frequencies of the missing marginal and corrects them, which are hard for Sinkhorn.
"""

import math
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid
from metaot.models.base import (
    TEMPERATURES,
    ModulatedBlock,
    PotentialModel,
    chebyshev,
    log_unit,
    require_settings,
)
from metaot.settings import require_whole

UNIT = 0.1
"""The size of a potential on the unit square, so that the network's outputs are of order one."""


@final
class Cosines(nn.Module):
    """The lowest `modes` cosines of each axis of a grid, as one matrix for each axis.

    The atoms are taken to be evenly spaced.
    """

    def __init__(self, sizes: list[int], modes: int) -> None:
        super().__init__()
        self.sizes, self.modes = sizes, modes
        frequencies = torch.arange(modes, dtype=torch.float64)[:, None]
        for axis, size in enumerate(sizes):
            x = torch.linspace(0, 1, size, dtype=torch.float64)
            basis = torch.cos(math.pi * frequencies * x).float()
            self.register_buffer(f"basis{axis}", basis, persistent=False)

    @property
    def count(self) -> int:
        """The number of coefficients."""
        return self.modes ** len(self.sizes)

    def moments(self, weights: Float[Tensor, "batch n"]) -> Float[Tensor, "batch count"]:
        """Return sum_i w_i cos(pi k x_i) for all frequencies k, the zeroth first."""
        return _contracted(self._bases(), weights)

    def function(self, coefficients: Float[Tensor, "batch count"]) -> Float[Tensor, "batch n"]:
        """Return sum_k c_k cos(pi k x_i), the function on the grid."""
        return _contracted([basis.mT for basis in self._bases()], coefficients)

    def damping(self) -> Float[Tensor, "count"]:
        """Return 1/(1 + |k|^2) for each coefficient: a potential is smooth."""
        squares = torch.arange(self.modes, dtype=torch.float32).square()
        grid = torch.meshgrid(*[squares] * len(self.sizes), indexing="ij")
        return (1 / (1 + torch.stack(grid).sum(0))).flatten()

    def _bases(self) -> list[Tensor]:
        return [getattr(self, f"basis{axis}") for axis in range(len(self.sizes))]


def _contracted(matrices: list[Tensor], values: Float[Tensor, "batch n"]) -> Float[Tensor, "batch m"]:
    """Multiply along each axis, the last one first."""
    batch, after = values.shape[0], 1
    for matrix in reversed(matrices):
        rows, columns = matrix.shape
        if after == 1:
            values = values.reshape(-1, columns) @ matrix.mT
        else:
            values = matrix @ values.reshape(-1, columns, after)
        after *= rows
    return values.reshape(batch, -1)


class GridPotential(PotentialModel):
    """A model of problems on a grid; its constructor takes `sizes`, `eps` and settings."""

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "GridPotential":
        if not isinstance(geometry, Grid):
            raise ValueError(f"{cls.__name__} reads images on a Grid, got {geometry}: use ModalPotential")
        return cls(sizes=list(geometry.sizes), eps=list(eps), **settings)


@final
class SpectralPotential(GridPotential):
    """A network between functions on a grid of any dimension.

    A potential is smooth at the scale of sqrt(eps), and what moves mass far are the low frequencies of a and
    b. So the network reads `moments` cosine moments for each axis of a and of b, and log eps, and writes
    `modes` cosine coefficients for each axis of f, damped by 1/(1 + |k|^2).

    Args:
        moments: cosine moments of each axis that the network reads of a and of b.
        modes: cosine coefficients of each axis that it writes of f.
        width: features of each residual layer.
        hidden: units inside each residual layer.
        depth: residual layers.
    """

    def __init__(
        self,
        sizes: list[int],
        eps: list[float],
        *,
        moments: int = 14,
        modes: int = 14,
        width: int = 384,
        hidden: int = 368,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.config = {
            "sizes": sizes, "eps": eps, "moments": moments, "modes": modes,
            "width": width, "hidden": hidden, "depth": depth,
        }  # fmt: skip
        require_settings(type(self), self.config)
        self.bounds, self.sizes = (eps[0], eps[1]), (math.prod(sizes), math.prod(sizes))
        self.analysis, self.synthesis = Cosines(sizes, moments), Cosines(sizes, modes)
        self.register_buffer("centre", torch.zeros(self.analysis.count - 1, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(self.analysis.count - 1, dtype=torch.float32))
        self.register_buffer("damping", UNIT * self.synthesis.damping(), persistent=False)
        self.centre: Tensor
        self.spread: Tensor
        self.damping: Tensor
        self.inputs = nn.Linear(2 * (self.analysis.count - 1) + TEMPERATURES, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, self.synthesis.count)
        self.gain = nn.Linear(TEMPERATURES, self.synthesis.count)
        nn.init.zeros_(self.gain.weight)
        nn.init.ones_(self.gain.bias)

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        """Return f, the features x (batch width) and the polynomials of log eps (batch temperatures)."""
        temperature = chebyshev(log_unit(eps, self.bounds))
        moments = (self.analysis.moments(torch.cat([a, b]))[:, 1:] - self.centre) / self.spread
        x = self.inputs(torch.cat([moments[: a.shape[0]], moments[a.shape[0] :], temperature], -1))
        for block in self.blocks:
            x = block(x, temperature)
        coefficients = self.outputs(self.norm(x)) * self.gain(temperature) * self.damping
        return self.synthesis.function(coefficients), x, temperature

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        moments = self.analysis.moments(torch.cat([a, b]))[:, 1:]
        self.centre.copy_(moments.mean(0))
        self.spread.copy_(moments.std(0) + 1e-6)


@final
class RefinedPotential(GridPotential):
    """A `SpectralPotential` and `passes` refinement steps, all with the same correction.

    A refinement step is a Sinkhorn step and a correction. `first` holds the settings of the spectral network.
    `passes` may be set to another number after training, 0 for the spectral network without refinement. Training
    makes `unrolled` refinement steps, by default as many.

    Args:
        first: settings of the spectral network, such as first.width.
        passes: refinement steps in a prediction.
        unrolled: refinement steps in training; null for as many as in a prediction.
        modes: cosine moments of each axis that a correction reads of the missing marginal, and writes of f.
        hidden: units inside the layer of a correction.
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
        require_settings(type(self), self.config)
        require_settings(SpectralPotential, first or {})
        require_whole(2, modes=modes)
        self.passes, self.unrolled = passes, unrolled
        self.first = SpectralPotential(sizes, eps, **(first or {}))
        self.bounds, self.sizes = self.first.bounds, self.first.sizes
        self.correction = Correction(sizes, modes, self.first.config["width"], hidden)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.first(*inputs)

    def correct(self, missing: Tensor, *features: Tensor) -> Tensor:
        return self.correction(missing, *features)

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
