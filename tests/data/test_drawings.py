"""Random images of many kinds and sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metaot.data import Drawings
from metaot.data.drawings import _KINDS, drawn_images, random_images


@pytest.mark.parametrize("draw", [*_KINDS, random_images, drawn_images])
@pytest.mark.parametrize(("count", "side"), [(1, 28), (2, 28), (7, 8), (130, 41)])
def test_images_are_finite_and_sets_have_no_blank_one(
    draw: Callable[..., Tensor], count: int, side: int, generator: torch.Generator
) -> None:
    images = draw(count, side, generator)
    assert images.shape == (count, side, side)
    assert images.isfinite().all()
    assert images.min() >= 0
    assert draw in _KINDS or images.amax((1, 2)).min() > 0


def test_shapes_are_varied(generator: torch.Generator) -> None:
    support = (random_images(400, 28, generator) > 0).double().mean((1, 2))
    assert support.quantile(0.1) < 0.02
    assert support.quantile(0.9) > 0.5


def test_a_batch_has_one_size_and_fewer_images_where_they_are_large() -> None:
    pairs = Drawings(batch=64, sides=(8, 16, 12)).split("train")
    seen = {}
    for seed in range(20):
        problem = pairs.sample(torch.Generator().manual_seed(seed))
        seen[problem.geometry.sizes] = len(problem.a)
    assert seen == {(8, 8): 64, (12, 12): 28, (16, 16): 16}
    assert Drawings(sides=(8, 16)).split("validation").geometry.sizes == (8, 8)
