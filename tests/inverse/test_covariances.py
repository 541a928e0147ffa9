"""Learning from covariances: optimality, agreement with plans on grids, the two Lassos at the ends of eps."""

import pytest
import torch

from metaot.inverse import L1, Gaussians, Nuclear, learn_cost_from_covariances, learn_cost_from_plan


def covariance(dim: int) -> torch.Tensor:
    X = torch.randn(dim, 3 * dim)
    return X @ X.mT / X.shape[1]


def test_the_plan_of_a_grid_has_the_closed_form():
    """Loss, theta, Hessian and penalised theta of a Gaussian plan, from its weights and from its covariances."""
    pair, theta = Gaussians([[0.7]], [[1.3]], 0.8), torch.tensor([[-0.9]])
    z = torch.linspace(-8, 8, 101)
    S = pair.cross_covariance(theta)
    precision = torch.linalg.inv(torch.tensor([[0.7, float(S)], [float(S), 1.3]]))
    x, y = z[:, None], z
    P = (-(precision[0, 0] * x * x + 2 * precision[0, 1] * x * y + precision[1, 1] * y * y) / 2).exp()
    for penalty in (None, L1(0.1)):
        found = learn_cost_from_plan(P / P.sum(), z[:, None], z[:, None], eps=pair.eps, penalty=penalty)
        expected = learn_cost_from_covariances(pair.Sa, pair.Sb, S, eps=pair.eps, penalty=penalty)
        torch.testing.assert_close(found.theta, expected.theta, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.hessian, pair.hessian(expected.theta), rtol=1e-5, atol=0)
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("penalty", [L1(0.05), Nuclear(0.2)])
def test_penalised_estimates_are_optimal(penalty: L1 | Nuclear):
    pair, theta = Gaussians(covariance(4), covariance(3), 1.0), torch.randn(4, 3).round()
    S = pair.cross_covariance(theta)
    found = learn_cost_from_covariances(pair.Sa, pair.Sb, S, eps=1.0, penalty=penalty)
    assert found.converged

    def value(t: torch.Tensor) -> float:
        return float((t * S).sum() - pair.value(t) + penalty.value(t))

    least = value(found.theta)
    assert all(value(found.theta + 1e-3 * torch.randn(4, 3)) > least for _ in range(20))
    again = learn_cost_from_covariances(pair.Sa, pair.Sb, S, eps=1.0, penalty=penalty, init=found)
    assert again.steps == 0
    assert "converged" in repr(again)
    if isinstance(penalty, L1):
        assert found.certificate is not None
        on = found.theta.flatten() != 0
        torch.testing.assert_close(found.certificate.z.flatten()[on], found.theta.sign().flatten()[on])


def test_a_penalty_of_lam_eps_is_the_graphical_lasso_as_eps_falls():
    graphical_lasso = pytest.importorskip("sklearn.covariance").graphical_lasso
    one, lam, precision = torch.eye(3), 0.05, covariance(3).inverse()
    S = precision.inverse() + 2 * lam * one  # theirs leaves out the diagonal
    expected = torch.tensor(graphical_lasso(S.numpy(), alpha=2 * lam, tol=1e-9, enet_tol=1e-9)[1])
    found = []
    for eps in (0.2, 0.1):
        S = Gaussians(one, one, eps).cross_covariance(precision)
        init = found[-1] if found else None
        found.append(learn_cost_from_covariances(one, one, S, eps=eps, penalty=L1(lam * eps), init=init, tol=1e-6))
    assert all(bool(((estimate.theta != 0) == (expected != 0)).all()) for estimate in found)
    wide, narrow = (estimate.theta for estimate in found)
    torch.testing.assert_close(2 * narrow - wide, expected, rtol=0, atol=2e-3)  # the error is of order eps


def test_a_penalty_of_lam_over_eps_is_the_lasso_as_eps_grows():
    Lasso = pytest.importorskip("sklearn.linear_model").Lasso
    (d, k), eps, lam = (4, 3), 1e3, 0.3
    Sa, Sb, theta = covariance(d), covariance(k), torch.randn(d, k)
    A = torch.kron(*(torch.linalg.cholesky(S).mT.contiguous() for S in (Sa, Sb)))
    lasso = Lasso(alpha=lam / (d * k), fit_intercept=False, tol=1e-12, max_iter=10_000)
    expected = torch.tensor(lasso.fit(A.numpy(), (A @ theta.flatten()).numpy()).coef_).view(d, k)
    S = Gaussians(Sa, Sb, eps).cross_covariance(theta)
    found = learn_cost_from_covariances(Sa, Sb, S, eps=eps, penalty=L1(lam / eps))
    torch.testing.assert_close(found.theta, expected, rtol=0, atol=1e-4)
    assert 0 < int((found.theta == 0).sum()) < d * k


def test_what_is_no_penalty_is_named():
    one = torch.eye(2)
    with pytest.raises(TypeError, match="penalty must be None"):
        learn_cost_from_covariances(one, one, 0.1 * one, eps=1.0, penalty=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"S must have the shape \(2, 2\)"):
        learn_cost_from_covariances(one, one, torch.zeros(2, 3), eps=1.0)
