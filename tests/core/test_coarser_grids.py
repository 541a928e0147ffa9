"""Coarse to fine in compiled code, without torch: the same potentials as from zeros, in fewer steps."""

import numpy as np
import pytest
from core_problems import weights
from numpy.testing import assert_allclose, assert_array_equal

from metaot import core

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


def bells(generator: np.random.Generator, batch: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Return smooth weights, a few of them without mass."""
    x = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in sizes), indexing="ij"), -1).reshape(
        -1, len(sizes)
    )
    density = np.exp(-((x - generator.random((batch, 1, len(sizes)))) ** 2).sum(-1) / 0.1) + 0.05
    density[:, ::17] = 0
    return density / density.sum(-1, keepdims=True)


def space(*sizes: int) -> core.Costs:
    lines = [np.linspace(0, 1, size) for size in sizes]
    return core.Costs.on_axes(tuple(np.subtract.outer(t, t) ** 2 for t in lines), tuple(lines))


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize(
    ("sizes", "strides"), [((24, 17), [(2, 2), (4, 4)]), ((9, 8, 10), [(2, 1, 2)]), ((40, 3), [(2, 1), (4, 1)])]
)
def test_they_lead_to_the_same_potentials(sizes, strides, priced):
    generator, eps = np.random.default_rng(0), np.array([0.03, 0.05, 0.1])
    a, b = bells(generator, 3, sizes), bells(generator, 3, sizes)
    prices = np.array([[1.0, 0.5, 1.0, 0.3]] * 3) if priced else None
    limits = core.Limits(1e-10, 1000)
    for start in (None, 0.01 * generator.normal(size=a.shape), np.full(a.shape, np.nan)):
        compiled = core.Compiled(space(*sizes), a, b, eps, prices=prices)
        quick, slow = (compiled.sinkhorn(core.EVERY, start, limits, strides=way) for way in (strides, ()))
        assert (quick.error <= 1e-10).all()
        assert (quick.steps <= slow.steps).all()
        for mine, theirs in zip(quick[:2], slow[:2], strict=True):
            shift = 0 if priced else (mine - theirs).mean(-1, keepdims=True)
            assert_allclose(mine - shift, theirs, atol=1e-7)


def test_products_on_a_large_grid_share_the_threads():
    generator, sizes = np.random.default_rng(0), (330, 331)
    a, f = weights(generator, 1, 330 * 331), 1e-3 * generator.normal(size=(1, 330 * 331))
    steps = [core.sinkhorn_step(space(*sizes), a, a, np.array([0.1]), f, threads=threads) for threads in (1, 3)]
    for mine, theirs in zip(*steps, strict=True):
        assert_array_equal(mine, theirs)
