"""Steps in the scaling domain, written for few calls, are those of the paper."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from metaot.single import DenseProblem
from metaot.single.scalings import Scalings
from metaot.single.start import Absorbed


def drawn(seed: int, k: int, l: int, eps: float) -> DenseProblem:
    generator = np.random.default_rng(seed)
    a, b = generator.random(k) + 0.1, generator.random(l) + 0.1
    return DenseProblem(generator.random((k, l)) / eps, a / a.sum(), b / b.sum())


@pytest.mark.parametrize("omega", [1.0, 1.4])
def test_a_step_updates_u_and_then_v(omega):
    problem = drawn(0, 5, 7, 0.1)
    K, a, b = np.exp(-problem.C), problem.a, problem.b
    scalings = Scalings(a, b, K.dot, K.T.dot)
    scalings.rows[:], scalings.columns[:] = K.sum(1), K.sum(0)
    u, v = np.ones(5), np.ones(7)
    for _ in range(4):
        expected = np.abs(u * (K @ v) - a).sum() + np.abs(v * (K.T @ u) - b).sum()
        assert scalings.error() == pytest.approx(expected)
        u = u * (a / (u * (K @ v))) ** omega
        v = v * (b / (v * (K.T @ u))) ** omega
        scalings.step(omega)
        assert_allclose(scalings.u, u)
        assert_allclose(scalings.v, v)


@pytest.mark.parametrize("far", [0.0, 1.0, 300.0, 2000.0])
@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_a_plan_answers_for_other_potentials_what_the_costs_say(far, eps):
    """Where the plan holds zeros that would count, the costs are asked."""
    problem = drawn(1, 20, 30, eps)
    f, other = np.random.default_rng(2).normal(size=(2, 20))
    K, g = problem.best_plan(f)
    seen = Absorbed(problem, f, K, g)
    with np.errstate(all="ignore"):
        best = problem.best_g(f + far * other)
        assert_allclose(seen.best_g(f + far * other), best, rtol=1e-12, atol=1e-9)
        assert_allclose(seen.best_f(best), problem.best_f(best), rtol=1e-12, atol=1e-9)
