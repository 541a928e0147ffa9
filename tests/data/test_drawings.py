"""Drawn images of many kinds and sizes."""

import pytest
import torch

from metaot.data import Drawings
from metaot.data.drawings import _KINDS, drawn_images


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("side", [8, 28])
def test_every_kind_gives_images(kind: object, side: int, generator: torch.Generator) -> None:
    images = kind(60, side, generator)
    assert images.shape == (60, side, side)
    assert images.isfinite().all()
    assert images.min() >= 0


@pytest.mark.parametrize("count", [1, 2, 7, 130])
def test_images_are_finite_and_never_blank(count: int, generator: torch.Generator) -> None:
    images = drawn_images(count, 28, generator)
    assert images.shape == (count, 28, 28)
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.amax((1, 2)).min() > 0


def test_a_batch_has_one_size_and_fewer_images_where_they_are_large() -> None:
    pairs = Drawings(batch=64, sides=(8, 16, 12)).split("train")
    seen = {}
    for seed in range(20):
        problem = pairs.sample(torch.Generator().manual_seed(seed))
        seen[problem.geometry.sizes] = len(problem.a)
    assert seen == {(8, 8): 64, (12, 12): 28, (16, 16): 16}


def test_validation_has_the_first_size_and_other_images() -> None:
    drawings = Drawings(batch=8, sides=(8, 16))
    validation, test = (
        drawings.split(name).sample(torch.Generator().manual_seed(1)) for name in ("validation", "test")
    )
    assert validation.geometry.sizes == (8, 8)
    assert not torch.equal(validation.a, test.a)


def test_the_same_seed_gives_the_same_problems() -> None:
    first, second = (Drawings(batch=8).split("train").sample(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first.a, second.a)
    assert torch.equal(first.eps, second.eps)
