"""Embedded random palettes: shaded colours with soft edges, as in pictures; and random changes of colour."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier import SampleProblem
from metaot.data.base import STREAMS, SampleSet, Source, Split, stream
from metaot.data.figures import FLOAT, uniform

_COLOURS = 7


@final
@dataclass(frozen=True)
class Palettes(Source):
    """Pairs of random palettes; all splits have the same distribution, by other seeds."""

    batch: int = 32
    samples: int = 256

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
    number = torch.randint(1, _COLOURS + 1, (count, 1), generator=generator)
    shares = shares * (torch.arange(_COLOURS) < number)
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
