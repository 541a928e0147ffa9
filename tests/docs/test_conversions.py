"""What docs/howto/convert.md says of POT, checked with POT: one problem, both libraries."""

from typing import Any

import numpy as np
import pytest
import torch

from metaot import Dense, DualPotentials, Points, Problem, solve

pytestmark = pytest.mark.parity
ot: Any = pytest.importorskip("ot")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 2)), RNG.normal(size=(15, 2))
A, B = RNG.dirichlet(np.ones(12)), RNG.dirichlet(np.ones(15))
REG = 0.5
SETTINGS = {"stopThr": 1e-12, "numItermax": 10_000}


def problem(cost: str = "sqeuclidean", *, eps: float = REG, uniform: bool = False) -> Problem:
    a, b = (np.full(len(w), 1 / len(w)) if uniform else w for w in (A, B))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    return Problem(torch.from_numpy(a), torch.from_numpy(b), Points(x, y, cost), eps)


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_dist_is_the_cost_of_points_and_reg_is_eps(metric):
    M = ot.dist(X, Y, metric=metric)
    P = ot.sinkhorn(A, B, M, REG, **SETTINGS)
    np.testing.assert_allclose(solve(problem(metric), tol=1e-11).plan(), P, atol=1e-10)
    dense = Problem(torch.from_numpy(A), torch.from_numpy(B), Dense(torch.from_numpy(M)), REG)
    np.testing.assert_allclose(solve(dense, tol=1e-11).plan(), P, atol=1e-10)


def test_values():
    solution, M = solve(problem(), tol=1e-11), ot.dist(X, Y)
    value, cost = float(solution.value), float(solution.cost())
    assert ot.sinkhorn2(A, B, M, REG, **SETTINGS) == pytest.approx(cost)
    for found in (
        ot.solve(M, A, B, reg=REG, tol=1e-12, max_iter=10_000),
        ot.solve_sample(X, Y, A, B, reg=REG, tol=1e-12, max_iter=10_000),
    ):
        assert found.value == pytest.approx(value)
        assert found.value_linear == pytest.approx(cost)
    other = ot.solve(M, A, B, reg=REG, reg_type="entropy", tol=1e-12, max_iter=10_000)
    assert other.value == pytest.approx(value - REG * (entropy(A) + entropy(B)))
    P = solution.plan().numpy()
    assert other.value == pytest.approx(cost - REG * entropy(P))


@pytest.mark.parametrize("method", ["sinkhorn", "sinkhorn_log", "sinkhorn_stabilized"])
def test_potentials_of_the_log(method):
    _, log = ot.sinkhorn(A, B, ot.dist(X, Y), REG, method=method, log=True, **SETTINGS)
    F = {
        "sinkhorn": lambda: REG * np.log(log["u"]).ravel(),
        "sinkhorn_log": lambda: REG * log["log_u"],
        "sinkhorn_stabilized": lambda: log["alpha"],
    }[method]()
    start = DualPotentials.from_f(problem(), torch.from_numpy(F - REG * np.log(A)))
    assert int(solve(problem(), init=start, tol=1e-9).steps) == 0


def test_bounds_enclose_the_exact_cost():
    exact = ot.emd2(A, B, ot.dist(X, Y))
    bounds = solve(problem(eps=0.02)).bounds()
    assert float(bounds.lower) <= exact <= float(bounds.upper)
    assert float(bounds.gap) < 0.05 * exact


def test_domain_adaptation_is_the_barycentric_map():
    adapted = ot.da.SinkhornTransport(reg_e=REG, tol=1e-12, max_iter=10_000).fit(Xs=X, Xt=Y).transform(X)
    np.testing.assert_allclose(solve(problem(uniform=True), tol=1e-11).transport(), adapted, atol=1e-9)


def test_their_stopping_rule_is_weaker_than_the_same_number_here():
    """An L1 error of both marginals below tol follows from an L2 error of one below tol/sqrt(m)."""
    tol, M = 1e-4, ot.dist(X, Y)
    P = ot.sinkhorn(A, B, M, REG, stopThr=tol / np.sqrt(len(B)), numItermax=10_000)
    assert np.abs(P.sum(1) - A).sum() + np.abs(P.sum(0) - B).sum() <= tol
