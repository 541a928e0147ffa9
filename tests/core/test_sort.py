"""Rows in increasing order, with the place of each number, by compiled code."""

import numpy as np
import pytest

from metaot import core
from metaot.core import _core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")

random = np.random.default_rng(0)
ROWS = {
    "normal": random.standard_normal(3000),
    "few": random.standard_normal(24),
    "one more": random.standard_normal(25),
    "ties": random.integers(-5, 5, 2000).astype(float),
    "equal": np.ones(100),
    "clusters": np.concatenate([k + 1e-12 * random.standard_normal(400) for k in range(3)]),
    "heavy tails": np.exp(20 * random.standard_normal(2000)) * random.choice([-1, 1], 2000),
    "geometric": random.permutation(2.0 ** -np.arange(0.0, 1000)),
    "denormal": random.integers(0, 2000, 1000) * 5e-324,
    "wide": random.uniform(-1, 1, 1000) * np.finfo(float).max,
    "infinite": np.where(
        random.random(500) < 0.1, random.choice([-np.inf, np.inf], 500), random.standard_normal(500)
    ),
    "falling": np.arange(5000.0)[::-1].copy(),
    "zeros of both signs": random.permutation(np.array([0.0, -0.0, 1.0] * 50)),
    "one": np.ones(1),
    "none": np.ones(0),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_sorted_and_equal_numbers_keep_their_order(name: str, dtype: type) -> None:
    with np.errstate(over="ignore"):
        given = np.stack([ROWS[name], ROWS[name][::-1]]).astype(dtype)
    for order in (None, np.empty(given.shape, np.int64)):
        values = given.copy()
        core.sort_rows(values, order)
        np.testing.assert_array_equal(values, np.sort(given, -1))
        if order is not None:
            np.testing.assert_array_equal(order, np.argsort(given, -1, kind="stable"))


def test_nan_among_the_numbers_does_no_harm() -> None:
    values = random.standard_normal((4, 400))
    values[:, ::7] = np.nan
    values[1, ::5] = -np.inf
    values[2] = np.nan
    values[3] = np.where(np.arange(400) % 2, np.nan, -np.copysign(np.nan, -1.0))
    order = np.empty(values.shape, np.int64)
    core.sort_rows(values.copy(), order)
    np.testing.assert_array_equal(np.sort(order, -1), np.tile(np.arange(400), (4, 1)))


def test_two_threads_sort_what_one_does() -> None:
    values = random.standard_normal((40, 5000))
    order = np.empty(values.shape, np.int64)
    sorted_values = values.copy()
    core.sort_rows(sorted_values, order, threads=2)
    np.testing.assert_array_equal(sorted_values, np.take_along_axis(values, order, -1))
    np.testing.assert_array_equal(sorted_values, np.sort(values, -1))


def test_arrays_that_do_not_fit_are_errors() -> None:
    values, order = np.ones((2, 5)), np.empty((2, 5), np.int64)
    with pytest.raises(TypeError, match="values must be float32 or float64, got the format 'l'"):
        _core.sort_rows(order, None, 1)
    with pytest.raises(TypeError, match="order must be int64, got the format 'd'"):
        _core.sort_rows(values, values, 1)
    with pytest.raises(ValueError, match="order must have the shape of values"):
        _core.sort_rows(values, order[:1], 1)
    with pytest.raises(ValueError, match="values must be C-contiguous and writable"):
        _core.sort_rows(values[:, ::2], None, 1)
    with pytest.raises(ValueError, match="values must have at least 2 dimensions, got 1"):
        _core.sort_rows(values[0], None, 1)
