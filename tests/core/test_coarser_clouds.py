"""Clouds coarse to fine in the core alone: in fewer steps to the same potentials, and what is no cluster."""

import numpy as np
import pytest

from metaot.core.compiled import COMPILED, Compiled
from metaot.core.costs import POINT_COSTS, Costs
from metaot.core.method import EVERY, Limits

pytestmark = pytest.mark.skipif(not COMPILED, reason="there is no compiled code")

STRIDES = [(4,), (16,)]


def back_end(cost: str = "sqeuclidean", *, priced: bool = False, threads: int = 1) -> Compiled:
    """Return two problems between small clouds, one with atoms without mass."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=(410, 3)) + 0.3
    if cost == "sphere":
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    a, b = 0.1 + rng.random((2, 300)), 0.1 + rng.random((2, 410))
    a[1, ::3] = 0
    a, b = (w / w.sum(1, keepdims=True) for w in (a, b))
    prices = np.tile([1.0, 0.5, 1.0, 0.5], (2, 1)) if priced else None
    eps = np.array([0.3, 0.3])
    return Compiled(Costs.between_points(x, y, cost), a, b, eps, prices=prices, threads=threads)


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("cost", POINT_COSTS)
def test_the_solution_is_that_from_zeros(cost, priced):
    problems, limits = back_end(cost, priced=priced), Limits(1e-8, 1000)
    quick, slow = problems.sinkhorn(EVERY, None, limits, strides=STRIDES), problems.sinkhorn(EVERY, None, limits)
    assert (quick.error <= 1e-8).all()
    assert (quick.steps <= slow.steps).all()
    if not priced:
        quick.f[:] -= (quick.f - slow.f)[:, 1:2]
    np.testing.assert_allclose(quick.f, slow.f, atol=1e-5)


def test_threads_change_nothing():
    one, three = (back_end(threads=n).sinkhorn(EVERY, None, Limits(1e-6, 1000), strides=STRIDES) for n in (1, 3))
    np.testing.assert_allclose(one.f, three.f, atol=1e-12)


@pytest.mark.parametrize("strides", [[(3,)], [(0,)], [(4, 4)], [(4,)] * 13])
def test_clusters_that_are_none_are_errors(strides):
    with pytest.raises(ValueError, match=r"levels|strides|powers"):
        back_end().sinkhorn(EVERY, None, Limits(1e-6, 10), strides=strides)
