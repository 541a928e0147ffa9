"""Closed forms of inverse transport between Gaussians, against finite differences and published numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metaot import KL, Dense, Problem, solve
from metaot.inverse import L1, Gaussians, certificate

EPS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
OFF_CIRCLE = (2.503, 2.174, 1.669, 1.147, 0.563, 0.124, 0.002)
OFF_PLANAR = (2.811, 2.437, 1.725, 1.277, 0.882, 0.297, 0.005)


def covariance(dim: int) -> Tensor:
    X = torch.randn(dim, 3 * dim)
    return X @ X.mT / X.shape[1]


def circle(dim: int) -> Tensor:
    ones = torch.eye(dim).roll(1, 0)
    return laplacian(ones + ones.mT)


def planar(side: int) -> Tensor:
    line = torch.ones(side - 1).diag(1)
    line, one = line + line.mT, torch.eye(side)
    return laplacian(torch.kron(line, one) + torch.kron(one, line))


def laplacian(adjacency: Tensor) -> Tensor:
    return 0.1 * torch.eye(len(adjacency)) + adjacency.sum(1).diag() - adjacency


@pytest.mark.parametrize(("d", "k", "eps"), [(3, 3, 0.1), (2, 4, 1.0), (4, 3, 5.0)])
def test_the_hessian_is_that_of_the_cross_covariance_and_the_value(d: int, k: int, eps: float):
    pair, theta, step = Gaussians(covariance(d), covariance(k), eps), torch.randn(d, k), 1e-3
    S = pair.cross_covariance(theta)
    torch.testing.assert_close(pair.theta(S), theta, rtol=0, atol=1e-11)

    def slope(function, at):  # of order step^4
        near, far = (function(at + t * step) - function(at - t * step) for t in (1, 2))
        return (8 * near - far) / (12 * step)

    for k_th, direction in enumerate(torch.eye(d * k).view(-1, d, k)):
        found = slope(lambda t, u=direction: pair.cross_covariance(theta + t * u), torch.zeros(()))
        torch.testing.assert_close(-found.flatten(), pair.hessian(theta)[k_th], rtol=0, atol=1e-10)
        value = slope(lambda t, u=direction: pair.value(theta + t * u), torch.zeros(()))
        torch.testing.assert_close(value, S.flatten()[k_th], rtol=0, atol=1e-10)


def test_the_hessian_is_the_published_one_but_for_its_slips():
    (d, k), eps = (3, 4), 0.7
    Sa, Sb, theta = covariance(d), covariance(k), torch.randn(d, k)
    pair = Gaussians(Sa, Sb, eps)
    S = pair.cross_covariance(theta)
    M, N = Sa - S @ torch.linalg.solve(Sb, S.mT), Sb - S.mT @ torch.linalg.solve(Sa, S)
    transposes = torch.einsum("il,kj->ijkl", theta, theta).reshape(d * k, d * k)  # X -> theta X^T theta
    expected = eps * torch.linalg.inv(eps**2 * torch.kron(M.inverse(), N.inverse()) + transposes)
    torch.testing.assert_close(pair.hessian(theta), expected)
    torch.testing.assert_close(pair.theta(S), -eps * M.inverse() @ S @ Sb.inverse())
    X = torch.randn(2, d, k)
    torch.testing.assert_close(pair.product(theta, X).flatten(1), X.flatten(1) @ expected)


@pytest.mark.parametrize(("graph", "size", "values"), [(circle, 20, OFF_CIRCLE), (planar, 5, OFF_PLANAR)])
def test_certificates_of_graphs(graph: Callable[[int], Tensor], size: int, values: tuple[float, ...]):
    theta = graph(size)
    one, on = torch.eye(len(theta)), theta.flatten() != 0
    basis = torch.eye(theta.numel())[on].view(-1, *theta.shape)
    for eps, expected in zip(EPS, values, strict=True):
        H = Gaussians(one, one, eps).product(theta, basis).flatten(1)  # rows of the support
        z = H.mT @ torch.linalg.solve(H[:, on], theta.flatten()[on].sign())
        assert float(z[~on].abs().max()) == pytest.approx(expected, abs=5e-4)
    found = certificate(L1(0.1), theta, Gaussians(one, one, EPS[-1]).hessian(theta))
    assert found.largest == pytest.approx(values[-1], abs=5e-4)
    assert found.certified


def test_affinity_of_a_published_covariance():
    """Education, age, height and body mass of husbands and wives, in the documentation of R's affinitymatrix."""
    rows = (
        (0.326, 0.1446, -0.0668, 0.5712, 0.4277, 0.1847, -0.2883),
        (-0.0372, 0.0215, 0.2795, 0.8471, 0.1211, -0.0902),
        (-0.0244, 0.2186, 0.0636, 0.1489, -0.1301),
        (0.0192, 0.0452, -0.0553, 0.2717),
        (0.3309, 0.1324, -0.1896),
        (0.0915, -0.1299),
        (-0.1959,),
    )
    C = torch.eye(8)
    for k, row in enumerate(rows):
        C[k, k + 1 :] = C[k + 1 :, k] = torch.tensor(row)
    affinity = -Gaussians(C[:4, :4], C[4:, 4:], 1.0).theta(C[:4, 4:])
    expected = torch.tensor([3.345, 0.818, 0.313, 0.089])
    torch.testing.assert_close(torch.linalg.svdvals(affinity), expected, rtol=0, atol=5e-4)


def test_unbalanced_plans_are_those_of_a_solver():
    """On a fine grid, in one dimension, for the distance and for a cost that is no distance."""
    z = torch.linspace(-9, 9, 181)
    weights = [mass * w / w.sum() for mass, w in ((1.2, (-z * z / 1.4).exp()), (0.7, (-z * z / 2.6).exp()))]
    pair = Gaussians([[0.7]], [[1.3]], 0.8)
    for theta, quadratic, rho in ((-2.0, (1.0, 1.0), 0.6), (0.5, (0.0, -0.1), 1.5)):
        plan = pair.unbalanced([[theta]], rho, tuple(torch.full((1, 1), t) for t in quadratic), (1.2, 0.7))
        C = theta * z[:, None] * z + quadratic[0] * z[:, None] ** 2 + quadratic[1] * z**2
        found = solve(Problem(*weights, Dense(C), pair.eps, KL(rho)), tol=1e-12)
        P = found.plan()
        torch.testing.assert_close(P.sum(), plan.mass)
        torch.testing.assert_close(z @ P @ z, (plan.mass * plan.S).squeeze())
        torch.testing.assert_close(P.sum(1) @ z**2, (plan.mass * plan.A).squeeze())
        torch.testing.assert_close(P.sum(0) @ z**2, (plan.mass * plan.B).squeeze())
        torch.testing.assert_close(found.value, plan.value)


def test_unbalanced_plans_differentiate_and_tend_to_the_balanced_one():
    (d, k), eps, rho, step = (2, 3), 0.9, 2.0, 1e-4
    pair, theta = Gaussians(covariance(d), covariance(k), eps), 0.3 * torch.randn(d, k)
    Q, R, direction = covariance(d), covariance(k), torch.randn(d, k)
    plan = pair.unbalanced(theta, rho, (Q, R), (0.8, 1.1))
    up, down = (pair.unbalanced(theta + t * step * direction, rho, (Q, R), (0.8, 1.1)).value for t in (1, -1))
    expected = plan.mass * (plan.S * direction).sum()
    torch.testing.assert_close((up - down) / (2 * step), expected, rtol=0, atol=1e-8)
    held = pair.unbalanced(theta, 1e9)
    for found, exact in zip(held, (torch.ones(()), pair.Sa, pair.Sb, pair.cross_covariance(theta)), strict=False):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="no plan is best"):
        pair.unbalanced(50 * theta, 0.1)


def test_unbalanced_plans_between_points_are_the_published_ones():
    """For |x - y|^2, by equation 40 of Janati et al., with sigma^2 = eps/2 and gamma = rho."""
    d, eps, rho = 3, 0.9, 1.7
    pair, one, level = Gaussians(covariance(d), covariance(d), eps), torch.eye(d), (eps + rho) / 2
    plan = pair.unbalanced(-2 * one, rho, (one, one))
    smaller = [rho / 2 * (one - level * (S + level * one).inverse()) for S in (pair.Sa, pair.Sb)]
    values, vectors = torch.linalg.eig((eps + rho) / rho * smaller[0] @ smaller[1] + eps**2 / 16 * one)
    C = (vectors @ values.sqrt().diag() @ vectors.inverse()).real - eps / 4 * one
    wide, X = one + C / level, (pair.Sa + pair.Sb + level * one).inverse()
    torch.testing.assert_close(plan.A, wide @ (pair.Sa - pair.Sa @ X @ pair.Sa))
    torch.testing.assert_close(plan.S, C + wide @ pair.Sa @ X @ pair.Sb)


def test_samples_have_the_covariances():
    pair, theta, count = Gaussians(covariance(2), covariance(3), 0.5), torch.randn(2, 3), 20_000
    x, y = pair.sample(theta, count)
    for found, expected in ((x.mT @ x, pair.Sa), (y.mT @ y, pair.Sb), (x.mT @ y, pair.cross_covariance(theta))):
        torch.testing.assert_close(found / count, expected, rtol=0, atol=0.1)


def test_what_cannot_be_is_named():
    one = torch.eye(2)
    with pytest.raises(ValueError, match="Sb must be positive definite, got the eigenvalue -1"):
        Gaussians(one, -one, 1.0)
    with pytest.raises(ValueError, match="Sa must be symmetric"):
        Gaussians(one + one.roll(1, 0).triu(), one, 1.0)
    with pytest.raises(ValueError, match="eps must be positive"):
        Gaussians(one, one, 0.0)
    with pytest.raises(ValueError, match=r"theta must have the shape \(2, 2\), got \(3,\)"):
        Gaussians(one, one, 1.0).value([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="S must leave some variance"):
        Gaussians(one, one, 1.0).theta(one)
