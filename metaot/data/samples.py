"""Pairs of random samples: palettes with shaded colours, as in pictures, and measures with a known exact map."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import BrenierPotential, Frame, Icnn, SampleProblem
from metaot.data.base import STREAMS, SampleSet, Source, Split, stream
from metaot.data.drawings import FLOAT, first_few, gaussian, uniform
from metaot.settings import require_share, require_whole

_COLOURS = 7
_HIDDEN = (8, 8)
"""Of planted maps: few units, because the mean of many ridges is nearly quadratic."""
_BUMPS = 4


@final
@dataclass(frozen=True)
class Palettes(Source):
    """Pairs of random palettes; all splits have the same distribution, by other seeds."""

    batch: int = 32
    """Problems in a step of training."""
    samples: int = 256
    """Points that each measure is given by."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, samples=self.samples)

    def split(self, name: Split, data_dir: Path | None = None) -> "PalettePairs":
        return PalettePairs(self.batch, self.samples, STREAMS[name])


@final
@dataclass(frozen=True)
class PalettePairs(SampleSet):
    """Random palettes in RGB, values in [0, 1]; `stream` keeps the splits apart."""

    stream: int = 0

    def sample(self, generator: torch.Generator) -> SampleProblem:
        colours = random_palettes(2 * self.batch, self.samples, stream(generator, self.stream))
        return SampleProblem(*colours.chunk(2))


def random_palettes(count: int, samples: int, generator: torch.Generator) -> Float[Tensor, "count samples 3"]:
    """Draw palettes of one to seven colours, each in light and shade, on a tinted ground, clamped to [0, 1]."""
    colours = torch.rand(count, _COLOURS, 3, generator=generator, dtype=FLOAT)
    colours = colours.lerp(colours.mean(-1, keepdim=True), uniform((count, 1, 1), generator, 0.0, 0.9))
    shares = torch.rand(count, _COLOURS, generator=generator, dtype=FLOAT).pow(3) + 1e-3
    shares = shares * first_few(count, _COLOURS, generator)
    which = torch.multinomial(shares, samples, replacement=True, generator=generator)
    base = colours.gather(1, which[..., None].expand(-1, -1, 3))
    light = torch.rand(count, samples, 1, generator=generator, dtype=FLOAT)
    depth = uniform((count, _COLOURS), generator, 0.0, 1.0).gather(1, which)[..., None]
    shade = (light.pow(uniform((count, 1, 1), generator, 0.3, 3.0)) - 0.5) * depth
    ground = torch.rand(count, 1, 3, generator=generator, dtype=FLOAT)
    lit = base + torch.where(shade > 0, shade * (1 - base), shade * base) + 0.1 * (ground - 0.5)
    grain = torch.randn(count, samples, 3, generator=generator, dtype=FLOAT)
    return (lit + grain * uniform((count, 1, 1), generator, 0.005, 0.08)).clamp(0, 1)


def recoloured(
    palettes: Float[Tensor, "count samples 3"], generator: torch.Generator
) -> Float[Tensor, "count samples 3"]:
    """Change the colours of each palette at random: order of channels, gamma, saturation, some negatives."""
    count = len(palettes)
    order = torch.rand(count, 3, generator=generator).argsort(-1)
    palettes = palettes.gather(2, order[:, None].expand_as(palettes))
    negative = torch.rand(count, 1, 1, generator=generator) < 0.15
    palettes = torch.where(negative, 1 - palettes, palettes)
    gamma = (0.5 * torch.randn(count, 1, 1, generator=generator)).exp()
    gamma = gamma * (0.15 * torch.randn(count, 1, 3, generator=generator)).exp()
    palettes = palettes.clamp(1e-4, 1).pow(gamma)
    grey = palettes.mean(-1, keepdim=True)
    return grey + (palettes - grey) * uniform((count, 1, 1), generator, 0.2, 1.3)


@final
@dataclass(frozen=True)
class Planted(Source):
    """Random sources in R^dim and targets pushed forward by gradients of random ICNNs; a share are Gaussians.

    All splits have the same distribution, by other seeds.
    """

    batch: int = 32
    """Problems in a step of training."""
    samples: int = 256
    """Points that each measure is given by."""
    dim: int = 3
    """The dimension of the space."""
    gaussians: float = 0.1
    """The share of pairs that are two Gaussians."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch, dim=self.dim)
        require_whole(2, samples=self.samples)
        require_share(gaussians=self.gaussians)

    def split(self, name: Split, data_dir: Path | None = None) -> "PlantedPairs":
        return PlantedPairs(self.batch, self.samples, self.dim, self.gaussians, STREAMS[name])


@final
@dataclass(frozen=True)
class PlantedPairs(SampleSet):
    """Pairs with their map; `stream` keeps the splits apart."""

    dim: int
    gaussians: float = 0.1
    stream: int = 0

    def sample(self, generator: torch.Generator) -> SampleProblem:
        return self.with_map(generator)[0]

    def with_map(self, generator: torch.Generator) -> tuple[SampleProblem, BrenierPotential]:
        """Draw problems, and the potential whose gradient is the solution: `potential.gradient(x)`."""
        own = stream(generator, self.stream)
        first = torch.arange(self.batch) < round(self.gaussians * self.batch)
        x, other = self._mixtures(first, own).chunk(2, 1)
        potential = self._potentials(first, own)
        return SampleProblem(x, potential.gradient(other)), potential

    def _mixtures(self, first: Tensor, generator: torch.Generator) -> Float[Tensor, "batch count dim"]:
        """Draw twice the samples from mixtures of Gaussians; the first measures are a single one."""
        shape = (self.batch, 2 * self.samples, self.dim)
        centres = 1.2 * gaussian((self.batch, _BUMPS, self.dim), generator)
        centres[first] = 0
        widths = uniform((self.batch, 1, self.dim), generator, 0.4, 1.0)
        which = torch.randint(_BUMPS, shape[:2], generator=generator)
        return centres.gather(1, which[..., None].expand(shape)) + widths * gaussian(shape, generator)

    def _potentials(self, first: Tensor, generator: torch.Generator) -> BrenierPotential:
        """Draw strongly convex functions whose gradients keep the scale; the first are quadratic."""
        batch, dim = self.batch, self.dim
        icnn = Icnn(dim, _HIDDEN, "softplus", floor=0.2)
        mix = gaussian((batch, dim, dim), generator) / dim**0.5
        U = 0.6 * torch.eye(dim, dtype=FLOAT) + 0.3 * (mix + mix.mT) @ (mix + mix.mT)
        shift = gaussian((batch, dim), generator)
        weights = icnn.weights(generator, batch)
        weights[:, : sum(_HIDDEN) * (dim + 1)] *= 2
        positive = slice(-(_HIDDEN[-1] * (_HIDDEN[0] + 1) + dim + 1), -(dim + 1))
        weights[:, positive] = 8 + 8 * gaussian(weights[:, positive].shape, generator)
        weights[first, positive] = -30.0
        points = 1.5 * gaussian((batch, 200, dim), generator)
        scale = 1.5 / (icnn.gradient(weights, points @ U) @ U).std((1, 2))
        V = torch.linalg.inv(U) / scale[:, None, None]
        return BrenierPotential(icnn, weights, Frame(torch.zeros_like(shift), shift, U, V, scale))
