"""Pairs of pen strokes, which are much like digits, and the shipped model for these."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import metaot
from metaot.amortize import AmortizedPotential
from metaot.problem import Problem


@pytest.fixture(scope="session")
def model() -> AmortizedPotential:
    return metaot.load(Path(__file__).parents[2] / "checkpoints/mnist")


@pytest.fixture(scope="session")
def images(model: AmortizedPotential) -> Problem:
    """Four pairs of images at eps = 1e-2, most atoms without mass."""
    generator = torch.Generator().manual_seed(0)
    return Problem(strokes(4, generator), strokes(4, generator), model.geometry, 1e-2)


def strokes(count: int, generator: torch.Generator) -> Tensor:
    """Draw images of 28 x 28 pixels with two quadratic curves each, about two pixels wide."""
    ends = 0.15 + 0.7 * torch.rand(2 * count, 3, 2, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    curve = (1 - t) ** 2 * ends[:, None, 0] + 2 * t * (1 - t) * ends[:, None, 1] + t**2 * ends[:, None, 2]
    x = torch.linspace(0, 1, 28, dtype=torch.float64)
    ink = (-((x - curve[..., None]) ** 2) / (2 * 0.03**2)).exp()
    image = (ink[:, :, 0, :, None] * ink[:, :, 1, None, :]).sum(1)
    image = (image[:count] + image[count:]).clamp(max=1)
    image = torch.where(image > 0.3, image, 0.0).flatten(1)
    return image / image.sum(-1, keepdim=True)
