"""Learning with a price on marginals: unbalanced Gaussians, rho to infinity, and couples with singles."""

import pytest
import torch
from torch import Tensor

from metaot import KL, Dense, Problem, solve
from metaot.inverse import L1, Gaussians, learn_cost, learn_cost_from_plan, learn_surplus, surplus

Z = torch.linspace(-7, 7, 41, dtype=torch.float64)
PAIR, RHO, MASSES = ((0.7, 1.3), 0.8), 1.5, (1.2, 0.7)
QUADRATIC = [
    lambda x, y: x @ y.mT,
    lambda x, y: x.square().expand(-1, len(y)),
    lambda x, y: y.square().mT.expand(len(x), -1),
]


def gaussians() -> Gaussians:
    (a, b), eps = PAIR
    return Gaussians([[a]], [[b]], eps)


def on_grid(C: Tensor, mass: Tensor) -> Tensor:
    """Return the weights of a Gaussian of two coordinates."""
    Q, x, y = torch.linalg.inv(C), Z[:, None], Z
    P = (-(Q[0, 0] * x * x + 2 * Q[0, 1] * x * y + Q[1, 1] * y * y) / 2).exp()
    return mass * P / P.sum()


def populations() -> tuple[Tensor, Tensor]:
    weights = [(-Z * Z / (2 * variance)).exp() for variance in PAIR[0]]
    return MASSES[0] * weights[0] / weights[0].sum(), MASSES[1] * weights[1] / weights[1].sum()


def moments(theta: Tensor) -> Tensor:
    """Return the means of x y, x^2 and y^2 under the unbalanced plan, in closed form."""
    plan = gaussians().unbalanced(theta[:1, None], RHO, (theta[1:2, None], theta[2:, None]), MASSES)
    return plan.mass * torch.stack([plan.S[0, 0], plan.A[0, 0], plan.B[0, 0]])


def test_an_unbalanced_gaussian_plan_tells_all_of_its_cost():
    theta, step = torch.tensor([-0.9, 0.3, 0.2]), 1e-4
    plan = gaussians().unbalanced(theta[:1, None], RHO, (theta[1:2, None], theta[2:, None]), MASSES)
    P = on_grid(torch.stack([plan.A, plan.S, plan.S, plan.B]).view(2, 2), plan.mass)
    a, b = populations()
    found = learn_cost_from_plan(
        P, Z[:, None], Z[:, None], eps=PAIR[1], features=QUADRATIC, marginals=KL(RHO), a=a, b=b
    )
    assert found.converged
    torch.testing.assert_close(found.theta, theta, rtol=0, atol=1e-6)
    slopes = [(moments(theta - step * u) - moments(theta + step * u)) / (2 * step) for u in torch.eye(3)]
    torch.testing.assert_close(found.hessian, torch.stack(slopes), rtol=0, atol=1e-6)


def test_a_high_price_is_the_balanced_case():
    S = gaussians().cross_covariance([[-0.9]])
    P = on_grid(torch.tensor([[0.7, float(S)], [float(S), 1.3]]), torch.ones(()))
    errors = []
    for rho in (1e3, 1e5):
        found = learn_cost_from_plan(
            P, Z[:, None], Z[:, None], eps=PAIR[1], marginals=KL(rho), a=P.sum(1), b=P.sum(0)
        )
        errors.append(abs(float(found.theta) + 0.9))
    assert errors[0] < 1e-2
    assert errors[1] < 0.02 * errors[0]  # the difference is of order 1/rho


def test_pairs_among_samples_of_populations():
    """Samples of an unbalanced Gaussian plan; also as a plan between everybody, in which many have no weight."""
    theta, count = torch.tensor([-0.9, 0.3, 0.2]), 100
    plan = gaussians().unbalanced(theta[:1, None], RHO, (theta[1:2, None], theta[2:, None]))
    C = torch.stack([plan.A, plan.S, plan.S, plan.B]).view(2, 2)
    pairs = torch.randn(count, 2) @ torch.linalg.cholesky(C).mT
    X, Y = (variance**0.5 * torch.randn(count, 1) for variance in PAIR[0])
    x, y = pairs[:, :1], pairs[:, 1:]
    settings = {"eps": PAIR[1], "features": QUADRATIC, "marginals": KL(RHO), "tol": 1e-6}
    found = learn_cost(x, y, populations=(X, Y), mass=float(plan.mass), **settings)
    assert found.converged
    torch.testing.assert_close(found.theta, theta, rtol=0, atol=0.4)
    none, a = torch.zeros(count, count), torch.cat([torch.ones(count), torch.zeros(count)]) / count
    P = torch.block_diag(none, plan.mass * torch.eye(count) / count)
    same = learn_cost_from_plan(P, torch.cat([X, x]), torch.cat([Y, y]), a=a, b=a, **settings)
    torch.testing.assert_close(found.theta, same.theta, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="populations need marginals with a price"):
        learn_cost(x, y, eps=1.0, populations=(X, Y))


def matched(phi: Tensor, men: Tensor, women: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return couples and singles of a surplus, by solving each side's quadratic equations in turn."""
    K, v = (phi / 2).exp(), women.sqrt()
    for _ in range(2000):
        s = K @ v / 2
        u = (men + s * s).sqrt() - s
        t = K.mT @ u / 2
        v = (women + t * t).sqrt() - t
    return u[:, None] * K * v, u * u, v * v


def test_couples_and_singles_tell_the_surplus():
    men, women, x, y = torch.rand(6) + 0.5, torch.rand(5) + 0.5, torch.randn(6, 1), torch.randn(5, 1)
    theta = torch.tensor([-0.7, 0.8, 0.4])
    features = [
        lambda x, y: torch.ones(len(x), len(y)),
        lambda x, y: x @ y.mT,
        lambda x, y: x.expand(-1, len(y)),  # of x alone: singles tell it
    ]
    phi = sum(t * feature(x, y) for t, feature in zip(theta, features, strict=True))
    mu, s, t = (1000 * part for part in matched(phi, men, women))
    torch.testing.assert_close(surplus(mu, s, t), phi)
    found = learn_surplus(mu, s, t, features=features, x=x, y=y)
    assert found.converged
    torch.testing.assert_close(found.theta, theta, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.surplus, phi, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.couples, mu, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.singles, (s, t), rtol=1e-5, atol=0)


def test_a_surplus_far_from_zero_is_found():
    """Few couples, as in a country in a year: a whole Newton step from zero would leave none of some types."""
    age = torch.linspace(16, 76, 12)
    his, hers = age[:, None].expand(12, 12), age.expand(12, 12)
    older, lines = his - hers, [torch.ones(12, 12)]
    lines += [(each - k).clamp_min(0) for each in (his, hers) for k in (16, 25, 40)]
    lines += [(older - k).clamp_min(0) for k in (-15, 0, 15)]
    lines += [(his + hers) * (older - k).clamp_min(0) for k in (-60, -15, 0, 15)]
    phi = -7 - 0.03 * (older - 2).abs() ** 1.5 - 0.05 * (his - 25).clamp_min(0)
    mu, s, t = matched(phi, (-age / 30).exp(), (-age / 36).exp())
    found = learn_surplus(mu, s, t, features=[line / line.max() for line in lines])
    assert found.converged
    torch.testing.assert_close((found.couples * lines[4]).sum(), (mu * lines[4]).sum())


def test_standard_errors_of_the_surplus_are_those_of_households():
    """With a parameter for each pair of types, those of log(mu^2/(s t)) of multinomial counts (delta method)."""
    mu, s, t = torch.tensor([[40.0, 7.0], [12.0, 31.0]]), torch.tensor([20.0, 35.0]), torch.tensor([15.0, 60.0])
    found = learn_surplus(mu, s, t, features=list(torch.eye(4).view(4, 2, 2)))
    expected = (4 / mu + 1 / s[:, None] + 1 / t).sqrt().flatten()
    torch.testing.assert_close(found.standard_errors, expected, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="without a penalty"):
        learn_surplus(mu, s, t, features=[torch.ones(2, 2)], penalty=L1(0.1)).standard_errors  # noqa: B018


def test_what_cannot_be_is_named():
    one = torch.ones(2)
    with pytest.raises(
        ValueError, match=r"couples must be n m, .* couples \(2, 2\), single_x \(2,\), single_y \(3,\)"
    ):
        surplus(torch.ones(2, 2), one, torch.ones(3))
    with pytest.raises(ValueError, match=r"each type must have singles, got single_y\[1\] = 0"):
        surplus(torch.ones(2, 2), one, torch.tensor([1.0, 0.0]))
    base = torch.tensor([[0.0, torch.inf], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"base forbids a pair that was observed, base\[0, 1\] = inf"):
        learn_cost_from_plan(torch.ones(2, 2), eps=1.0, features=[torch.eye(2)], base=base)


def test_a_known_part_of_the_cost_is_not_learned_again():
    z, known = torch.linspace(-1, 1, 12)[:, None], torch.rand(12, 12)
    known[0, 1:] = torch.inf
    weights = torch.full((12,), 1 / 12)
    plan = solve(Problem(weights, weights, Dense(known - 2 * z @ z.mT), 0.5), tol=1e-12).plan()
    found = learn_cost_from_plan(1000 * plan, z, z, eps=0.5, base=known)
    torch.testing.assert_close(found.theta, torch.tensor([[-2.0]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.geometry.C[1:], (known - 2 * z @ z.mT)[1:], rtol=0, atol=1e-6)
    drawn = found.bootstrap(20, generator=torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean()) + 2) < 4 * float(found.standard_errors)
