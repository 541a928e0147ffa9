"""The softmin on a grid in numpy: right to rounding at every eps, as the whole matrix is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from metaot.single import GridSoftmin


def whole(costs: list[np.ndarray]) -> np.ndarray:
    """Return the matrix of which the costs are those along axes."""
    C = np.zeros((1, 1))
    for cost in costs:
        C = (C[:, None, :, None] + cost[None, :, None, :]).reshape(len(C) * len(cost), -1)
    return C


@pytest.mark.parametrize("eps", [1.0, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("sizes", [(30,), (12, 17), (4, 3, 5)])
def test_it_is_the_sum_over_the_whole_matrix(sizes, eps):
    generator = np.random.default_rng(0)
    grids = [np.linspace(0, 1, size) for size in sizes]
    costs = [(t[:, None] - t) ** 2 + 0.1 * generator.random((len(t), len(t))) for t in grids]
    C = whole(costs)
    h = 0.3 * generator.normal(size=C.shape[1])
    h[generator.random(len(h)) < 0.5] = -np.inf
    z = (h - C) / eps
    top = z.max(1)
    expected = -eps * (top + np.log(np.exp(z - top[:, None]).sum(1)))
    assert_allclose(GridSoftmin(costs, eps)(h), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-1, 1e-4])
def test_without_any_mass_there_is_no_bound(eps):
    costs = [np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))] * 2
    assert (GridSoftmin(costs, eps)(np.full(16, -np.inf)) > 1e200).all()
