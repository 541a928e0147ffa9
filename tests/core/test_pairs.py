"""Pairs of measures: the value that compiled code gives after few steps, from the potentials that it gives."""

import numpy as np
import pytest
from core_problems import weights
from numpy.testing import assert_allclose

from metaot import core
from metaot.core import Limits

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


def log_sums(z: np.ndarray) -> np.ndarray:
    top = z.max(-1, keepdims=True)
    return np.log(np.exp(z - top).sum(-1)) + top[..., 0]


@pytest.mark.parametrize("steps", [1, 4])
def test_the_value_is_that_of_the_best_f_for_g(steps):
    """The dual value <f', a> + <g, b>, half a step after the potentials; both are those of atoms with mass."""
    generator, eps, pairs = np.random.default_rng(0), 0.05, np.array([[0, 1], [2, 0], [1, 2]])
    t, w = np.linspace(0, 1, 9), weights(generator, 3, 81, empty=0.3)
    C = (t[:, None] - t) ** 2
    whole = (C[:, None, :, None] + C[None, :, None, :]).reshape(81, 81)
    for costs in (core.Costs.on_axes((C, C)), core.Costs.of_matrix(whole)):
        found = core.PairSolver(costs, w, eps)(pairs, None, Limits(0.0, steps), potentials=True)
        for k, (i, j) in enumerate(pairs):
            a, b = w[i] > 0, w[j] > 0
            f, g, cost = found.f[k][a], found.g[k][b], whole[np.ix_(a, b)]
            assert_allclose(g, -eps * log_sums((f + eps * np.log(w[i][a]) - cost.T) / eps), atol=1e-12)
            best = -eps * log_sums((g + eps * np.log(w[j][b]) - cost) / eps)
            assert_allclose(found.value[k], best @ w[i][a] + g @ w[j][b], atol=1e-13)
        assert (found.steps == steps).all()
