"""Parts of random images: random numbers, bumps and fields, many images at once."""

import torch
from torch import Tensor

FLOAT = torch.float32


def bumps(centres: Tensor, widths: Tensor, heights: Tensor, side: int) -> Tensor:
    """Return sums of Gaussian bumps with centres and widths (count p 2) and heights (count p)."""
    x = torch.linspace(0, 1, side, dtype=FLOAT)
    profile = (-0.5 * ((x - centres[..., None]) / widths[..., None]).square()).exp()
    return (heights[..., None] * profile[:, :, 0]).mT @ profile[:, :, 1]


def smooth_field(count: int, side: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return Gaussian random fields of unit mean square, whose spectra fall with powers from `low` to `high`."""
    modes = min(12, side)
    k = torch.arange(modes, dtype=FLOAT)
    x = torch.linspace(0, 1, side, dtype=FLOAT)
    basis = torch.cos(torch.pi * k[:, None] * x)
    decay = (1 + k[:, None] ** 2 + k**2) ** (-uniform((count, 1, 1), generator, low, high))
    field = basis.T @ (gaussian((count, modes, modes), generator) * decay) @ basis
    return field / field.square().mean((1, 2), keepdim=True).sqrt()


def cut(image: Tensor, threshold: Tensor) -> Tensor:
    """Scale to a maximum of one and set values below the threshold to zero."""
    image = image / image.amax((1, 2), keepdim=True)
    return torch.where(image > threshold, image, 0.0)


def first_few(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Return count x most ones and zeros: a random number (one to `most`) of ones, then zeros."""
    number = torch.randint(1, most + 1, (count, 1), generator=generator)
    return (torch.arange(most) < number).to(FLOAT)


def coin(count: int, generator: torch.Generator, chance: float = 0.5) -> Tensor:
    """Return true with a chance, one for each image."""
    return torch.rand((count, 1, 1), generator=generator, dtype=FLOAT) < chance


def uniform(shape: tuple[int, ...], generator: torch.Generator, low: float, high: float) -> Tensor:
    """Draw from an interval."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=FLOAT)


def gaussian(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution."""
    return torch.randn(shape, generator=generator, dtype=FLOAT)
