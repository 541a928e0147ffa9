"""Assignments of points by compiled code: the best ones, bounds that prices prove, and arrays that do not fit."""

import numpy as np
import pytest

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


def points(n: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(n)
    x, y = random.random((n, dim)), random.normal(size=(n, dim)).round(1)  # many of the second ones are the same
    return x, y, np.square(x[:, None] - y).sum(2)


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (2, 2), (33, 1), (70, 3), (300, 2), (64, 9)])
def test_the_best_assignment_is_that_of_the_matrix(n, dim):
    x, y, C = points(n, dim)
    least = core.assign_rows(C, np.array([0.1]), np.zeros(n), exact=True)[1]
    columns, cost, bound = core.assign_points(x, y, "sqeuclidean", np.array([0.1]), np.zeros(n), exact=True)
    assert sorted(columns) == list(range(n))
    assert C[np.arange(n), columns].sum() == pytest.approx(cost, abs=1e-10)
    assert cost == pytest.approx(least, abs=1e-9)
    assert bound == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("n", [31, 100, 2500])
def test_prices_prove_the_bound(n, quick):
    x, y, C = points(n, 2)
    prices = np.random.default_rng(1).normal(size=n)
    columns, cost, bound = core.assign_points(x, y, "sqeuclidean", np.array([0.5, 0.1]), prices, quick=quick)
    assert sorted(columns) == list(range(n))
    assert C[np.arange(n), columns].sum() == pytest.approx(cost, rel=1e-12)
    assert bound == pytest.approx((C + prices).min(1).sum() - prices.sum(), rel=1e-10, abs=1e-9)
    assert bound <= cost + 1e-9
    assert quick or cost <= bound + 0.1 * n + 1e-9


@pytest.mark.parametrize(
    ("x", "y", "count", "error"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), 2, "must be n d"),
        (np.zeros((0, 2)), np.zeros((0, 2)), 0, "must be n d"),
        (np.zeros((2, 2)), np.zeros((3, 2)), 2, "must be n d"),
        (np.zeros((2, 2)), np.zeros((2, 2)), 3, "those of the points"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x, y, count, error):
    with pytest.raises(ValueError, match=error):
        core.assign_points(x, y, "sqeuclidean", np.ones(1), np.zeros(count))
