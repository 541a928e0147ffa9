"""Products from numbers of 16 bits: within the error that is returned, for sizes that fill no block; bad input."""

import numpy as np
import pytest

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 1), (6, 16, 400), (13, 13, 401), (200, 150, 7)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_near_those_of_floats(n, m, dim, threads):
    random = np.random.default_rng(n)
    x = random.normal(size=(n, dim)).astype(np.float32) * 10.0 ** random.integers(-9, 9, size=(n, 1)).astype("f")
    y = random.random((m, dim)).astype(np.float32) ** 9
    y[0] = 0
    y[-1, 0] = 1e4  # one number that is larger than all others: sums of 32 bits are at their limit
    found, error = core.multiply_rows(x, y, -2.0, threads=threads)
    exact = -2 * x.astype(float) @ y.astype(float).T
    size = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    assert (abs(found - exact) <= 2e-3 * size).all()
    if n == m:
        pairs = [random.permutation(n) for _ in range(20)]
        means = [(found - exact)[np.arange(n), columns].mean() for columns in pairs]
        assert 0 < max(map(abs, means)) <= error <= 2e-3 * np.sqrt((size**2).mean())


def test_numbers_that_all_agree_do_not_overflow():
    x = np.full((3, 400), 7.0, dtype=np.float32)
    assert core.multiply_rows(x, -x)[0] == pytest.approx(-400 * 49, rel=1e-3)


def test_numbers_that_are_not_finite_spoil_their_own_row_only():
    x = np.ones((3, 5), dtype=np.float32)
    x[1, 2], x[2, 4] = np.nan, np.inf
    found, _ = core.multiply_rows(x, np.ones((2, 5), dtype=np.float32))
    assert found[0] == pytest.approx(5, rel=1e-3)
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("x", "y"), [(np.zeros((2, 3), "f"), np.zeros((2, 2), "f")), (np.zeros((0, 3), "f"), np.zeros((2, 3), "f"))]
)
def test_matrices_that_do_not_fit_are_refused(x, y):
    with pytest.raises(ValueError, match="out must have a row for each of x"):
        core.multiply_rows(x, y)
