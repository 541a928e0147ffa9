"""Measures on a part of a large grid: products in their boxes, potentials everywhere."""

import numpy as np
import pytest

from metaot import single
from metaot.single.box import Box
from metaot.single.softmin import GridSoftmin


def corner(sizes: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Return random weights between these shares of each axis, some of them zero."""
    generator, mass = np.random.default_rng(0), np.zeros(sizes)
    part = tuple(slice(int(low * size), int(high * size)) for size in sizes)
    mass[part] = generator.random(mass[part].shape) * (generator.random(mass[part].shape) > 0.3)
    return mass.reshape(-1) / mass.sum()


@pytest.mark.parametrize("sizes", [(1500,), (33, 48), (11, 9, 13)])
@pytest.mark.parametrize("eps", [0.05, 5e-3])
def test_potentials_of_measures_in_boxes_are_the_best_for_each_other_on_the_whole_grid(sizes, eps):
    axes = [np.linspace(0, 1, size) for size in sizes]
    costs = [(x[:, None] - x) ** 2 / eps for x in axes]
    a, b = corner(sizes, 0.1, 0.5), corner(sizes, 0.4, 0.9)
    K = single.AxesKernel(costs)
    problem = single.AxesProblem(K, a, b)
    assert not problem.source.fills
    found = single.sinkhorn_on_axes(problem, None, tol=1e-8, max_steps=2000)
    assert found is not None
    assert found.error <= 1e-8
    softmin = GridSoftmin(costs, 1.0)
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    np.testing.assert_allclose(found.g, softmin(found.f + log_a), atol=1e-9)
    best = softmin(found.g + log_b)
    np.testing.assert_allclose(found.f[a == 0], best[a == 0], atol=1e-9)
    assert np.abs(a * np.exp(found.f - best) - a).sum() <= 1.01e-8


@pytest.mark.parametrize("sizes", [(40, 50), (20, 7, 11)])
def test_a_box_is_no_larger_than_its_atoms_and_knows_where_they_are(sizes):
    mask = corner(sizes, 0.3, 0.8) > 0
    box = Box(mask, sizes)
    mask = mask.reshape(sizes)
    inside = mask[tuple(box.slices)]
    assert inside.sum() == mask.sum()
    assert np.array_equal(mask.reshape(-1).nonzero()[0], box.atoms)
    assert np.array_equal(inside.reshape(-1).nonzero()[0], box.places)
    for axis in range(len(sizes)):
        assert inside.take([0, -1], axis).any(tuple(k for k in range(len(sizes)) if k != axis)).all()
