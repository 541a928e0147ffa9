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


def small_eps(precision: torch.Tensor, lam: float) -> torch.Tensor:
    """Return the limit of estimates for lam eps, whose error is of order eps, from two of them."""
    one, found = torch.eye(len(precision)), []
    for eps in (0.2, 0.1):
        S = Gaussians(one, one, eps).cross_covariance(precision)
        init = found[-1] if found else None
        found.append(learn_cost_from_covariances(one, one, S, eps=eps, penalty=L1(lam * eps), init=init, tol=1e-6))
    return torch.where(found[-1].theta != 0, 2 * found[-1].theta - found[-2].theta, 0.0)


def large_eps(pair: Gaussians, theta: torch.Tensor, lam: float) -> torch.Tensor:
    S, eps = pair.cross_covariance(theta), pair.eps
    return learn_cost_from_covariances(pair.Sa, pair.Sb, S, eps=eps, penalty=L1(lam / eps)).theta


def are_subgradients(slopes: torch.Tensor, theta: torch.Tensor, lam: float) -> bool:
    """Return whether minus the slopes are subgradients of lam |theta|_1, and both parts of it occur."""
    on = theta != 0
    assert 0 < int(on.sum()) < theta.numel()
    on_support = (slopes + lam * theta.sign())[on].abs().max()
    return float(on_support) < 0.02 * lam and float(slopes[~on].abs().max()) <= lam


def test_a_penalty_of_lam_eps_is_the_graphical_lasso_as_eps_falls():
    lam, precision = 0.05, covariance(3).inverse()
    theta = small_eps(precision, lam)
    assert are_subgradients((precision.inverse() - theta.inverse()) / 2, theta, lam)


def test_a_penalty_of_lam_over_eps_is_the_lasso_as_eps_grows():
    pair, truth, lam = Gaussians(covariance(4), covariance(3), 1e3), torch.randn(4, 3), 0.3
    theta = large_eps(pair, truth, lam)
    assert are_subgradients(pair.Sa @ (theta - truth) @ pair.Sb, theta, lam)


@pytest.mark.slow
@pytest.mark.parity
def test_the_limits_are_those_of_scikit_learn():
    covariances = pytest.importorskip("sklearn.covariance")
    linear = pytest.importorskip("sklearn.linear_model")
    lam, precision = 0.05, covariance(3).inverse()
    S = precision.inverse() + 2 * lam * torch.eye(3)  # theirs leaves out the diagonal
    expected = covariances.graphical_lasso(S.numpy(), alpha=2 * lam, tol=1e-9, enet_tol=1e-9)[1]
    torch.testing.assert_close(small_eps(precision, lam), torch.tensor(expected), rtol=0, atol=2e-3)

    pair, truth, lam = Gaussians(covariance(4), covariance(3), 1e3), torch.randn(4, 3), 0.3
    A = torch.kron(*(torch.linalg.cholesky(S).mT.contiguous() for S in (pair.Sa, pair.Sb)))
    lasso = linear.Lasso(alpha=lam / truth.numel(), fit_intercept=False, tol=1e-12, max_iter=10_000)
    expected = torch.tensor(lasso.fit(A.numpy(), (A @ truth.flatten()).numpy()).coef_).view(4, 3)
    torch.testing.assert_close(large_eps(pair, truth, lam), expected, rtol=0, atol=1e-4)


def test_what_is_no_penalty_is_named():
    one = torch.eye(2)
    with pytest.raises(TypeError, match="penalty must be None"):
        learn_cost_from_covariances(one, one, 0.1 * one, eps=1.0, penalty=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"S must have the shape \(2, 2\)"):
        learn_cost_from_covariances(one, one, torch.zeros(2, 3), eps=1.0)


def test_the_tangent_space_of_a_rank_has_its_dimension_and_leaves_nothing_of_theta():
    U, _ = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    theta = U @ torch.diag(torch.tensor([3.0, 1e-3]).double()) @ U[:4].mT
    penalty = Nuclear(1.0)
    assert penalty.tangent(theta).shape == (20, 20 - (5 - 2) * (4 - 2))
    assert penalty.largest_off(theta, theta) == pytest.approx(0.0, abs=1e-12)
