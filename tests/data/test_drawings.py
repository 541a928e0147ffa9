"""Random images of many kinds and sizes: measures on grids, reproducible, apart in the splits."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metaot.data import Drawings, Shapes
from metaot.data.drawings import _KINDS, drawn_images, random_images


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("side", [8, 28])
def test_every_kind_gives_images(kind: Callable[..., Tensor], side: int, generator: torch.Generator) -> None:
    images = kind(60, side, generator)
    assert images.shape == (60, side, side)
    assert images.isfinite().all()
    assert images.min() >= 0


@pytest.mark.parametrize("draw", [random_images, drawn_images])
@pytest.mark.parametrize(("count", "side"), [(1, 28), (2, 28), (7, 8), (130, 41)])
def test_images_are_finite_and_never_blank(
    draw: Callable[..., Tensor], count: int, side: int, generator: torch.Generator
) -> None:
    images = draw(count, side, generator)
    assert images.shape == (count, side, side)
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.amax((1, 2)).min() > 0


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


@pytest.mark.parametrize("source", [Shapes(batch=4, eps=(0.1, 1.0), side=8), Drawings(batch=8, sides=(8,))])
def test_problems_depend_on_the_seed_and_the_split_only(source: Shapes | Drawings) -> None:
    train, again, test = (
        source.split(split).sample(torch.Generator().manual_seed(3)) for split in ("train", "train", "test")
    )
    assert torch.equal(train.a, again.a)
    assert torch.equal(train.b, again.b)
    assert torch.equal(train.eps, again.eps)
    assert not torch.equal(train.a, test.a)
