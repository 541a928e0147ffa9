"""From a grid to a coarser one and back."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from metaot import single
from metaot.single import AxesKernel, AxesKernels, Coarse, coarse, grid, lift_each, pooled

sizes_and_groups = pytest.mark.parametrize(
    ("sizes", "by"), [((20,), (2,)), ((9, 8), (2, 2)), ((7, 6), (1, 3)), ((4, 5, 3), (2, 2, 1))]
)


@pytest.fixture(params=["compiled", "numpy"])
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have both ways, of which the first one is not there where there was no compiler."""
    if request.param == "numpy":
        monkeypatch.setattr(coarse, "_steps", None)
        monkeypatch.setattr(grid, "_steps", None)
    elif coarse._steps is None:
        pytest.skip("not compiled")


def axes(sizes: tuple[int, ...], by: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return coordinates, and the means of groups of them."""
    fine = [np.linspace(0, 1, size) for size in sizes]
    groups = [np.split(x, range(count, len(x), count)) for x, count in zip(fine, by, strict=True)]
    return fine, [np.array([group.mean() for group in along]) for along in groups]


def costs(x: list[np.ndarray], y: list[np.ndarray]) -> list[np.ndarray]:
    return [(s[:, None] - t) ** 2 - 0.1 for s, t in zip(x, y, strict=True)]


def whole(parts: list[np.ndarray]) -> np.ndarray:
    """Return the cost between all atoms."""
    C = np.zeros((1, 1))
    for part in parts:
        C = (C[:, None, :, None] + part[None, :, None, :]).reshape(len(C) * len(part), -1)
    return C


def measures(seed: int, count: int, sizes: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(seed)
    a = generator.random((count, math.prod(sizes))) * (generator.random((count, math.prod(sizes))) > 0.6)
    a[:, -1] += 0.1
    return a / a.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("sizes", "by"), [((8,), (2,)), ((7, 6), (2, 2)), ((5, 4), (1, 3)), ((4, 5, 3), (2, 2, 1))]
)
def test_groups_have_the_mass_of_their_points(sizes, by):
    a = measures(0, 3, sizes)
    expected = np.zeros((3, *(-(-size // count) for size, count in zip(sizes, by, strict=True))))
    for place in np.ndindex(*sizes):
        at = tuple(k // count for k, count in zip(place, by, strict=True))
        expected[(slice(None), *at)] += a.reshape(3, *sizes)[(slice(None), *place)]
    np.testing.assert_allclose(pooled(a, sizes, by), expected.reshape(3, -1), atol=1e-15)


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("eps", [0.1, 1e-3])
@sizes_and_groups
def test_f_comes_back_by_two_transforms(sizes, by, eps, each):
    """There from the source to the target of the coarse grid, from there to the source of the fine one."""
    fine, few = axes(sizes, by)
    temperatures = eps * np.array([1.0, 1.3, 1.1]) if each else np.full(3, eps)
    a, b = measures(0, 3, sizes), measures(1, 3, sizes)
    here, there = pooled(a, sizes, by), pooled(b, sizes, by)
    f = 0.1 * np.random.default_rng(1).normal(size=here.shape) / eps**0.5
    f[here == 0] = math.nan
    if each:
        K, lifts = AxesKernels(costs(few, few), temperatures), AxesKernels(costs(fine, few), temperatures)
    else:
        K, lifts = (AxesKernel([part / eps for part in costs(x, few)]) for x in (few, fine))
    found = lift_each(Coarse(K, here, there, f), lifts, a)
    assert len(found.lost) == 0
    for k, one in enumerate(temperatures):
        i, j = here[k] > 0, there[k] > 0
        C = whole(costs(few, few))[np.ix_(i, j)] / one
        g = -logsumexp(f[k, i][:, None] - C, 0, here[k, i][:, None])
        best = -logsumexp(g - whole(costs(fine, few))[:, j] / one, 1, there[k, j])
        np.testing.assert_allclose(found.f[k, a[k] > 0], best[a[k] > 0], rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("_by")
def test_to_the_same_grid_it_is_a_step():
    x, _ = axes((9, 7), (1, 1))
    K, a, b = AxesKernel([part / 0.01 for part in costs(x, x)]), measures(0, 2, (9, 7)), measures(1, 2, (9, 7))
    f = np.random.default_rng(1).normal(size=a.shape)
    stepped = single.step_on_grid_each(K, a, b, f).f
    np.testing.assert_allclose(lift_each(Coarse(K, a, b, f), K, a).f[a > 0], stepped[a > 0], rtol=1e-13)


@pytest.mark.usefixtures("_by")
def test_numbers_that_leave_floating_point_on_the_way_are_lost():
    """Between distant atoms, of one problem of two; and on the way back alone, to an atom far from all mass."""
    fine, few = axes((60,), (2,))
    K, lifts = (AxesKernel([part / 2e-4 for part in costs(x, few)]) for x in (few, fine))
    a, near = np.eye(60)[[0, 0]], np.eye(60)[[59, 1]]
    here, there = pooled(a, (60,), (2,)), pooled(near, (60,), (2,))
    assert lift_each(Coarse(K, here, there, np.zeros((2, 30))), lifts, a).lost.tolist() == [0]
    a[1] = np.eye(60)[59]
    assert lift_each(Coarse(K, here, there, np.zeros((2, 30))), lifts, a).lost.tolist() == [0, 1]


@pytest.mark.skipif(not single.COMPILED, reason="not compiled")
def test_arrays_that_do_not_fit_are_refused():
    fine, few = axes((9, 8), (2, 2))
    K, lifts = (AxesKernel(costs(x, few)) for x in (few, fine))
    a = measures(0, 2, (9, 8))
    there = pooled(a, (9, 8), (2, 2))
    for bad, kernels in ((a, lifts), (there, K)):
        with pytest.raises(ValueError, match="sizes of the arrays"):
            lift_each(Coarse(K, bad, there, there), kernels, a)
    with pytest.raises(ValueError, match="sizes of the arrays"):
        lift_each(Coarse(K, there, there, there), AxesKernel(costs(few, fine)), a)
