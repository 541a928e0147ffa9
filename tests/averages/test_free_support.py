"""Barycenters of clouds on free points: translations, fixed points, moments, bad input."""

import pytest
import torch

from metaot.averages import free_barycenter


def cloud(count: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def test_of_one_cloud_it_is_the_cloud() -> None:
    x = cloud(40, 0)
    found = free_barycenter([x], [1.0], 40, eps=0.1)
    assert found.steps == 0
    assert torch.allclose(found.points, x, atol=1e-6)


def test_of_translated_clouds_it_is_translated() -> None:
    x, way = cloud(40, 0), torch.tensor([3.0, 1.0])
    found = free_barycenter([x, x + way], [0.3, 0.7], eps=0.1, init=x, tol=1e-6)
    assert found.converged
    assert torch.allclose(found.points, x + 0.7 * way, atol=1e-4)


def test_clouds_of_several_sizes_have_a_barycenter_between() -> None:
    clouds = [cloud(60, 1, 0.5), cloud(45, 2, 1.2)]
    found = free_barycenter(clouds, [0.3, 0.7], 30, eps=0.1, tol=1e-2)
    assert found.converged
    mean = 0.3 * clouds[0].mean(0) + 0.7 * clouds[1].mean(0)
    assert torch.allclose(found.points.mean(0), mean, atol=2e-2)
    spread = 0.3 * clouds[0].std(0) + 0.7 * clouds[1].std(0)
    assert torch.allclose(found.points.std(0), spread, rtol=0.1)
    again = free_barycenter(clouds, [0.3, 0.7], 30, eps=0.1, tol=1e-2, init=found)
    assert again.steps == 0


def test_eps_is_a_share_of_the_mean_cost_unless_it_is_given() -> None:
    clouds, weights = [cloud(12, 3, 0.5), (cloud(3, 4) + 2, [0.5, 0.3, 0.2])], [0.3, 0.7]
    x = torch.cat([clouds[0], clouds[1][0]])
    masses = torch.cat([torch.full((12,), 0.3 / 12), 0.7 * torch.tensor(clouds[1][1])])
    found = free_barycenter(clouds, weights, 6)
    mean = masses @ torch.cdist(x, x).square() @ masses
    given = free_barycenter(clouds, weights, 6, eps=0.05 * float(mean))
    assert torch.allclose(found.points, given.points, atol=1e-5)
    assert not torch.allclose(
        found.points, free_barycenter(clouds, weights, 6, eps=0.1 * float(mean)).points, atol=1e-2
    )
    assert free_barycenter([torch.ones(4, 2)], [1.0], 4).converged


def test_masses_are_learned_if_asked_for() -> None:
    """Two points far apart with the masses 0.8 and 0.2 can only be met by masses."""
    x, masses = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), [0.8, 0.2]
    found = free_barycenter([(x, masses), (x, masses)], [0.5, 0.5], 2, eps=0.1, learn_measure=True, tol=1e-5)
    assert found.converged
    assert torch.allclose(found.measure, torch.tensor(masses), atol=1e-3)
    assert torch.allclose(found.points, x, atol=1e-2)
    fixed = free_barycenter([(x, masses)], [1.0], 2, eps=0.1, tol=1e-5)
    assert torch.equal(fixed.measure, torch.tensor([0.5, 0.5]))
    assert "converged" in repr(fixed)


@pytest.mark.parametrize(
    ("clouds", "weights", "n", "words"),
    [
        ([cloud(5, 0), cloud(6, 1)], [0.5, 0.6], 4, "weights must sum to one, got sum weights = 1.1"),
        ([cloud(5, 0), cloud(6, 1)], [0.5], 4, "weights must be 2 numbers"),
        ([cloud(5, 0), torch.zeros(4, 3)], [0.5, 0.5], 4, r"one dimension d, got 2 .* and 3 for clouds\[1\]"),
        ([(cloud(2, 0), [0.0, 0.0])], [1.0], 4, r"clouds\[0\]\[1\] must sum to one, got sum clouds\[0\]\[1\] = 0"),
        ([cloud(5, 0)], [1.0], 0, "n must be at least one"),
        ([cloud(5, 0) * torch.nan], [1.0], 4, r"clouds\[0\] must be finite"),
        ([cloud(5, 0)[:0]], [1.0], 4, r"clouds\[0\] must have the shape \(points, d\), got \(0, 2\)"),
        ([cloud(5, 0)[0]], [1.0], 4, r"clouds\[0\] must have the shape \(points, d\), got \(2,\)"),
        ([(cloud(5, 0), [0.5, 0.5])], [1.0], 4, r"clouds\[0\]\[1\] must be 5 numbers, got the shape \(2,\)"),
    ],
)
def test_bad_input(clouds, weights, n: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        free_barycenter(clouds, weights, n, eps=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init": torch.zeros(0, 2)}, r"init must be points of the shape \(4, 2\), got \(0, 2\)"),
        ({"init": torch.zeros(0, 2), "n": None}, r"init must be points of the shape \(n, 2\), got \(0, 2\)"),
        ({"init": torch.zeros(3, 2)}, r"init must be points of the shape \(4, 2\), got \(3, 2\)"),
        ({"init": [0.0, 1.0]}, r"init must be points of the shape \(4, 2\), got \(2,\)"),
        ({"measure": [0.5, 0.5]}, r"measure must be 4 numbers, got the shape \(2,\)"),
        ({"measure": [0.5, 0.5, 0.5, -0.5]}, r"measure must not be negative, got measure\[3\] = -0.5"),
        ({"eps": 0}, "eps must be positive and finite, got 0"),
    ],
)
def test_bad_settings(settings, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        free_barycenter(**{"clouds": [cloud(5, 0)], "weights": [1.0], "n": 4, **settings})


def test_clouds_of_one_size_are_an_array() -> None:
    clouds = torch.stack([cloud(5, 0), cloud(5, 1)])
    found = free_barycenter(clouds, [0.5, 0.5], 3, eps=0.1).points
    assert torch.equal(found, free_barycenter([*clouds], [0.5, 0.5], 3, eps=0.1).points)


def test_other_things_than_clouds() -> None:
    with pytest.raises(TypeError, match="clouds must be a list of clouds"):
        free_barycenter(cloud(5, 0), [1.0], 3, eps=0.1)
