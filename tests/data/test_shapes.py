"""Random images: measures on the grid, reproducible, of all kinds."""

import pytest
import torch

from metaot.data import Shapes
from metaot.data.shapes import random_images


@pytest.mark.parametrize("side", [8, 28, 41])
def test_images_are_finite_nonnegative_and_never_blank(side: int, generator: torch.Generator) -> None:
    images = random_images(401, side, generator)
    assert images.shape == (401, side, side)
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.amax((1, 2)).min() > 0


def test_the_family_is_varied(generator: torch.Generator) -> None:
    support = (random_images(400, 28, generator) > 0).double().mean((1, 2))
    assert support.quantile(0.1) < 0.02
    assert support.quantile(0.9) > 0.5


def test_the_same_seed_gives_the_same_problems_and_splits_differ() -> None:
    def draw(split: str) -> torch.Tensor:
        return Shapes(batch=4).split(split).sample(torch.Generator().manual_seed(3)).a

    assert torch.equal(draw("train"), draw("train"))
    assert not torch.equal(draw("train"), draw("test"))
