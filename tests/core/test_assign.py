"""Assignments by compiled code: permutations, a bound that holds, the best ones; and arrays that do not fit."""

from itertools import permutations

import numpy as np
import pytest

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_best_of_all_permutations_is_found(n, dtype):
    costs = np.random.default_rng(n).normal(size=(n, n)).astype(dtype)
    least = min(sum(float(costs[i, j]) for i, j in enumerate(order)) for order in permutations(range(n)))
    columns, bound = core.assign_rows(costs, np.array([0.1]), np.zeros(n), exact=True)
    assert sorted(columns) == list(range(n))
    assert costs[np.arange(n), columns].sum(dtype=float) == pytest.approx(least, abs=1e-12)
    assert bound == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e8, 1e-8])
def test_a_few_bids_without_eps_leave_the_best_permutation_to_paths(size):
    random = np.random.default_rng(0)
    for costs in (random.normal(size=(40, 40)), random.integers(0, 4, size=(40, 40)).astype(float)):
        least = core.assign_rows(costs, np.array([0.1]), np.zeros(40), exact=True)[1]
        prices = 1e-9 * random.normal(size=40) + random.normal(size=40) * (size > 1)
        columns, bound = core.assign_rows(costs, np.array([0.0]), size * prices, exact=False)
        assert sorted(columns) == list(range(40))
        assert bound == pytest.approx(least, abs=1e-14 * size + 1e-9)
        assert costs[np.arange(40), columns].sum() == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (33, 1), (100, 2), (64, 4)])
def test_points_are_assigned_as_their_squared_distances_are(n, dim):
    random = np.random.default_rng(n)
    x, y, f = random.normal(size=(n, dim)), random.normal(size=(n, dim)), random.normal(size=n)
    costs = ((x[:, None] - y) ** 2).sum(2)
    columns, bound = core.assign_rows((x, y, f), np.zeros(1), prices := np.zeros(n), exact=True)
    assert sorted(columns) == list(range(n))
    assert costs[np.arange(n), columns].sum() == pytest.approx(bound, abs=1e-10)
    assert (costs + prices).min(1).sum() - prices.sum() == pytest.approx(bound, abs=1e-10)


@pytest.mark.parametrize("n", [31, 32, 33, 100])
def test_an_auction_is_within_eps_and_prices_prove_it(n):
    costs = np.random.default_rng(n).integers(0, 9, size=(n, n)).astype(float)  # many are equal
    least = core.assign_rows(costs, np.array([1.0, 0.1]), np.zeros(n), exact=True)[1]
    prices = np.random.default_rng(1).normal(size=n)
    columns, bound = core.assign_rows(costs, np.array([0.5]), prices, exact=False)
    assert sorted(columns) == list(range(n))
    assert bound == pytest.approx((costs + prices).min(1).sum() - prices.sum(), abs=1e-9)
    assert bound <= least + 1e-9 <= costs[np.arange(n), columns].sum() + 2e-9 <= bound + 0.5 * n + 3e-9


@pytest.mark.parametrize(
    ("costs", "eps", "count", "error"),
    [
        (np.zeros((2, 3)), np.ones(1), 2, "a square matrix"),
        (np.zeros((0, 0)), np.ones(1), 0, "a square matrix"),
        (np.zeros((2, 2), dtype=int), np.ones(1), 2, "float32 or float64"),
        (np.zeros((2, 2)), np.ones(0), 2, "those of the costs"),
        (np.zeros((2, 2)), np.ones(1), 3, "those of the costs"),
        ((np.zeros((2, 2)), np.zeros((3, 2)), np.zeros(2)), np.ones(1), 2, "must be n d"),
        ((np.zeros((2, 2)), np.zeros((2, 2)), np.zeros(3)), np.ones(1), 2, "must be n d"),
        ((np.zeros((2, 2)), np.zeros((2, 2))), np.ones(1), 2, "a potential f of x"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(costs, eps, count, error):
    with pytest.raises((ValueError, TypeError), match=error):
        core.assign_rows(costs, eps, np.zeros(count), exact=False)
