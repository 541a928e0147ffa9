"""Symmetric steps of measures to themselves, and calls that are made together."""

import sys

import numpy as np
import pytest
from core_problems import weights
from numpy.testing import assert_allclose, assert_array_equal
from test_buffers import arguments

from metaot import core
from metaot.core import EVERY, Limits
from metaot.core import compiled as packing

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")

SIZES = [1, 3, 31, 32, 33, 70]


def cloud(n: int, seed: int = 0) -> tuple[core.Costs, np.ndarray, np.ndarray]:
    """Return the costs of a cloud with itself, as points and as a matrix, and weights."""
    generator = np.random.default_rng(seed)
    x = generator.random((n, 3))
    C = ((x[:, None] - x) ** 2).sum(-1)
    return core.Costs.between_points(x, x, "sqeuclidean"), C, weights(generator, 1, n, empty=0.2)


@pytest.mark.parametrize("eps", [1e-3, 0.1])
@pytest.mark.parametrize("n", SIZES)
def test_half_a_matrix_has_both_marginals(n, eps):
    costs, C, a = cloud(n)
    for layout, shift in ((costs, 0.0), (core.Costs.of_matrix(C), 0.0), (core.Costs.of_matrix(C + 5.0), 5.0)):
        found = core.Compiled(layout, a, a, np.array([eps])).symmetric(None, Limits(1e-10, 200), on_support=True)
        assert found.error[0] <= 1e-10
        here = a[0] > 0
        f, w, costs_here = found.f[0][here], a[0][here], (C + shift)[np.ix_(here, here)]
        P = w * w[:, None] * np.exp((f + f[:, None] - costs_here) / eps)
        assert_allclose(P.sum(0), w, atol=1e-9)
        assert_allclose(found.f, found.g, atol=1e-8)


def test_sums_that_leave_floating_point_are_made_in_logs():
    """Costs that are no distances: an atom is much nearer to others than to itself."""
    C = np.array([[0.0, -900.0], [-900.0, 0.0]])
    a = np.array([[0.5, 0.5]])
    found = core.Compiled(core.Costs.of_matrix(C), a, a, np.ones(1)).symmetric(
        None, Limits(1e-9, 50), on_support=True
    )
    assert_allclose(found.f, -450 + np.log(2) / 2 * np.ones((1, 2)), atol=1e-6)


@pytest.mark.parametrize("price", [(1.0, 0.3), (2.0, 0.3)], ids=["KL", "TV"])
def test_prices_are_those_of_both_sides(price):
    costs, C, a = cloud(40)
    a, eps = 1.7 * a, np.array([0.05])
    compiled = core.Compiled(costs, a, a, eps, prices=np.array([[*price, *price]]))
    found = compiled.symmetric(None, Limits(1e-10, 300), on_support=True)
    plain = compiled.sinkhorn(EVERY, None, Limits(1e-10, 3000), on_support=True)
    assert found.error[0] <= 1e-10
    P, Q = (a[0] * a[0][:, None] * np.exp((f[0][:, None] + g[0] - C) / eps) for f, g in (found[:2], plain[:2]))
    assert_allclose(P, Q, atol=1e-8)


@pytest.mark.parametrize("threads", [1, 3])
def test_calls_together_are_calls_one_after_another(threads):
    """On two grids and a cloud: a thread keeps the kernels of a grid for the next problems on it only."""
    generator, limits = np.random.default_rng(1), Limits(1e-8, 100)
    costs, _, a = cloud(50)
    spaces = [costs]
    for size in (6, 8, 8):
        t = np.linspace(0, 1, size)
        spaces.append(core.Costs.on_axes(((t[:, None] - t) ** 2,) * 2))
    weighed = [a, *(weights(generator, 4, space.shape[0]) for space in spaces[1:])]
    each = [
        core.Compiled(space, w, w, np.full(len(w), 0.05)).symmetric(None, limits)
        for space, w in zip(spaces, weighed, strict=True)
    ]
    calls: list[core.Call] = []
    together = [
        core.Compiled(space, w, w, np.full(len(w), 0.05), deferred=calls).symmetric(None, limits)
        for space, w in zip(spaces, weighed, strict=True)
    ]
    assert len(calls) == len(spaces)
    core.run_together(calls, threads)
    for found, expected in zip(together, each, strict=True):
        for values, others in zip(found, expected, strict=True):
            assert_array_equal(values, others)


def test_wrong_calls_are_errors_and_nothing_is_held():
    good, bad = arguments()[:-1], arguments(a=np.ones(3))[:-1]
    before = sys.getrefcount(good[2][0])
    wrong = ([good], TypeError), ((good, bad), ValueError), ((good,) * 9, ValueError), ((good, 1), TypeError)
    for calls, error in wrong:
        with pytest.raises(error):
            packing._core.solve_together(calls, 1)
    packing._core.solve_together((good, good), 2)
    after = sys.getrefcount(good[2][0])
    assert after == before
