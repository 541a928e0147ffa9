"""Sums between two clouds in the core alone: against the cost matrix, on any number of threads; bad input."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


def clouds(cost: str = "sqeuclidean", n: int = 310, m: int = 205, d: int = 3) -> tuple[core.Costs, np.ndarray]:
    """Return costs between two clouds, and their matrix."""
    random = np.random.default_rng(n)
    x, y = random.normal(size=(n, d)), random.normal(size=(m, d))
    if cost == "sphere":
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    near, far = (np.square(x[:, None] + sign * y).sum(-1) for sign in (-1, 1))
    C = {"sqeuclidean": near, "euclidean": np.sqrt(near), "sphere": 2 * np.arctan2(np.sqrt(near), np.sqrt(far))}
    return core.Costs.between_points(x, y, cost), C[cost]


def sums(costs: core.Costs, h: np.ndarray, eps: float, v: np.ndarray, threads: int = 1) -> list[np.ndarray]:
    of_h = (
        core.softmin_of_clouds(costs, h, eps, threads=threads),
        core.softmin_of_clouds(costs, h, 0, threads=threads),
    )
    mean_costs = core.mean_costs_of_clouds(costs, h, eps, threads=threads)
    return [*of_h, mean_costs, core.means_on_clouds(costs, h, eps, v, threads=threads)]


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(310, 205, 3, 2), (700, 2500, 2, 3), (1, 40, 1, 1), (70, 1, 2, 0), (33, 64, 20, 50)]
)
@pytest.mark.parametrize("cost", core.POINT_COSTS)
def test_sums_are_those_of_the_cost_matrix(cost, n, m, d, k):
    costs, C = clouds(cost, n, m, max(d, 2) if cost == "sphere" else d)
    random = np.random.default_rng(0)
    h, v = random.normal(size=m), random.normal(size=(m, k))
    h[1::3] = -np.inf
    for eps in (1e-2, 1.0, 1e4):
        z = (h - C) / eps
        top = z.max(1, keepdims=True)
        w = np.exp(z - top)
        total = w.sum(1, keepdims=True)
        expected = [-eps * (top + np.log(total))[:, 0], (C - h).min(1), (w * C / total).sum(1), w / total @ v]
        for found, right in zip(sums(costs, h, eps, v), expected, strict=True):
            assert_allclose(found, right, rtol=1e-12, atol=1e-12)


def test_threads_share_the_blocks():
    (costs, _), random = clouds(), np.random.default_rng(0)
    h, v = random.normal(size=205), random.normal(size=(205, 3))
    for one, many in zip(sums(costs, h, 0.1, v), sums(costs, h, 0.1, v, threads=3), strict=True):
        assert_array_equal(one, many)


def test_what_does_not_fit_is_refused():
    costs, _ = clouds()
    with pytest.raises(ValueError, match="must be n d, m d, m, m k"):
        core.softmin_of_clouds(costs, np.zeros(204), 0.1)
    with pytest.raises(ValueError, match="must be n d, m d, m, m k"):
        core.means_on_clouds(costs, np.zeros(205), 0.1, np.zeros((204, 2)))
    for eps in (-1.0, np.nan):
        with pytest.raises(ValueError, match="eps is positive"):
            core.softmin_of_clouds(costs, np.zeros(205), eps)
    with pytest.raises(ValueError, match="eps is positive"):
        core.mean_costs_of_clouds(costs, np.zeros(205), 0.0)
