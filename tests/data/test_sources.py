"""Sources that draw their problems, by seed and split only; random images of many kinds and sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metaot.data import CostFamilies, Drawings, Palettes, Planted, Shapes, Source, Sphere, Split, middle
from metaot.data.drawings import _KINDS, drawn_images, random_images


def drawn(source: Source, split: Split, seed: int) -> list[Tensor]:
    problem = source.split(split).sample(torch.Generator().manual_seed(seed))
    return [value for value in vars(problem).values() if isinstance(value, Tensor)]


@pytest.mark.parametrize(
    "source",
    [
        Shapes(batch=6, eps=(0.1, 1.0), side=8),
        Drawings(batch=8, sides=(8,)),
        CostFamilies(batch=8, side=8),
        Palettes(batch=6, samples=40),
        Planted(batch=6, samples=40, dim=4),
        Sphere(batch=4, suppliers=20, customers=300, world="synthetic", demand="patterns"),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_problem_depends_on_the_seed_and_the_split_only(source: Source) -> None:
    first = drawn(source, "train", 3)
    assert all(map(torch.equal, first, drawn(source, "train", 3)))
    others = [drawn(source, "train", 4), drawn(source, "validation", 3), drawn(source, "test", 3)]
    assert not any(torch.equal(first[0], other[0]) for other in others)
    assert not torch.equal(others[1][0], others[2][0])


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


@pytest.mark.parametrize("per_axis", [0.0, 1.0])
def test_each_batch_has_a_cost_of_a_family(per_axis: float) -> None:
    pairs = CostFamilies(batch=2, eps=(0.02, 0.02), side=8, per_axis=per_axis).split("train")
    seen = []
    for seed in range(6):
        problem = pairs.sample(torch.Generator().manual_seed(seed))
        C = problem.geometry.cost_rows(slice(None)).unflatten(0, (8, 8)).unflatten(2, (8, 8))
        along = C[0, 0, :, 0], C[0, 0, 0, :]  # from a corner, along both axes
        p = [float((cost[7] / cost[1]).log() / torch.tensor(7.0).log()) for cost in along]
        assert 1 <= min(p) <= max(p) <= 2
        assert (abs(p[0] - p[1]) > 1e-3) == bool(per_axis)
        factors = [float(cost[7]) for cost in along]
        assert 1 / 4 <= factors[0] / factors[1] <= 4
        torch.testing.assert_close(C, along[0][_apart(8)][:, None, :, None] + along[1][_apart(8)][:, None])
        assert problem.eps == pytest.approx(0.02 * float(C.mean()))
        seen.append((*p, *factors))
    assert len(set(seen)) == 6


def _apart(side: int) -> Tensor:
    return (torch.arange(side)[:, None] - torch.arange(side)).abs()


def test_the_middle_of_a_range_is_inside_it() -> None:
    assert middle((1e-3, 1e-1)) == 0.01
    assert middle((0.0123456789, 0.0123456789)) == 0.0123456789
