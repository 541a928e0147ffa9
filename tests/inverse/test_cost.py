"""Learning a cost: derivatives, optimality, agreement with other minimisers, statistics, and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from strategies import assert_close

from metaot import KL, TV, Points, Problem, Status, solve
from metaot.inverse import (
    L1,
    Nuclear,
    certificate,
    cost_path,
    learn_cost,
    learn_cost_from_plan,
    train_cost,
)
from metaot.inverse.fenchel_young import Point


def pairs(n: int = 15, d: int = 3, e: int = 2):
    x = torch.randn(n, d)
    return x, 0.5 * x @ torch.randn(d, e) + torch.randn(n, e)


def distance(x, y):
    return (x[..., :, None, 0] - y[..., None, :, 1]).abs()


@pytest.mark.parametrize("marginals", [None, KL(2.0), (None, KL(0.5))], ids=str)
@pytest.mark.parametrize("kind", ["products", "listed"])
def test_derivatives_are_those_of_finite_differences(marginals, kind):
    x, y = pairs()
    features = None if kind == "products" else [distance, torch.rand(15, 15)]
    settings = {"weights": torch.rand(15), "features": features, "marginals": marginals}
    observed = learn_cost(x, y, eps=0.7, max_steps=1, **settings).observed
    theta, h = 0.3 * torch.randn(observed.features.shape), 1e-5

    def at(theta):
        return Point.of(observed, theta, torch.zeros_like(observed.a)).settled(1e-13)

    point, steps = at(theta), h * torch.eye(theta.numel()).reshape(-1, *theta.shape)
    ends = [(at(theta + step), at(theta - step)) for step in steps]
    assert_close(torch.tensor([(u.loss - v.loss) / (2 * h) for u, v in ends]), point.gradient.flatten(), 1e-9)
    H = torch.stack([(u.gradient - v.gradient).flatten() / (2 * h) for u, v in ends])
    assert_close(H, point.exact_model.H, 1e-8)
    rough = Point.of(observed, theta, point.f).rough_model()
    assert_close(rough.H, H, 1e-3 * float(H.abs().max()))
    off = Point.of(observed, theta, point.f + 0.03 * torch.randn(15))
    by_derivatives = (off.slope(point.exact_model) - point.gradient).abs().max()
    assert by_derivatives < 0.2 * (off.gradient - point.gradient).abs().max()
    assert abs(off.loss - point.loss) < 1e-3
    f = torch.stack([(u.f - v.f) / (2 * h) for u, v in ends], -1)
    found = point.exact_model.f.mT
    if marginals is None:
        f, found = (slope - observed.a @ slope for slope in (f, found))
    assert_close(found, f, 1e-7)


def test_loss_and_gradient_are_those_of_the_solved_problem():
    x, y = pairs()
    found = learn_cost(x, y, eps=0.7, penalty=L1(0.05))
    weights = torch.full((15,), 1 / 15)
    assert found.converged
    assert found.steps > 0
    assert found.inner_steps > 0
    for space in (found.geometry, Points(x, torch.cat([y, y[:, :1]], -1), lambda x, y: found.cost(x, y[..., :2]))):
        solution = solve(Problem(weights, weights, space, 0.7), tol=1e-11)
        gradient = x.T @ (weights.diag() - solution.plan()) @ y
        support = found.theta != 0
        assert_close(gradient[support], -0.05 * found.theta.sign()[support], 1e-7)
        assert bool((gradient[~support].abs() <= 0.05 + 1e-7).all())
    assert_close(found.solution.plan(), solution.plan(), 1e-8)


@pytest.mark.parametrize("penalty", [None, L1(0.1), Nuclear(0.1)], ids=str)
def test_scipy_finds_no_lower_value(penalty):
    """Of L1 over positive and negative parts, of the nuclear norm over factors: min (|U|^2 + |V|^2)/2."""
    x, y = pairs(12, 2, 2)
    found = learn_cost(x, y, eps=1.0, penalty=penalty)
    observed, lam = found.observed, 0.0 if penalty is None else penalty.lam

    def theta_of(z):
        if penalty is None:
            return z.reshape(2, 2)
        return (
            z[:4].reshape(2, 2) - z[4:].reshape(2, 2)
            if isinstance(penalty, L1)
            else z[:4].reshape(2, 2) @ z[4:].reshape(2, 2)
        )

    def value(z):
        z = torch.tensor(z, requires_grad=True)
        theta = theta_of(z)
        point = Point.of(observed, theta.detach(), torch.zeros(12)).settled(1e-9)
        size = z.sum() if isinstance(penalty, L1) else 0.5 * z.square().sum()
        (slope,) = torch.autograd.grad((theta * point.gradient).sum() + lam * size, z)
        return point.loss + lam * float(size.detach()), slope.numpy()

    bounds = [(0, None)] * 8 if isinstance(penalty, L1) else None
    best = minimize(value, 0.3 * np.ones(4 if penalty is None else 8), jac=True, bounds=bounds, tol=1e-9)
    here = found.loss + (0.0 if penalty is None else float(penalty.value(found.theta)))
    assert here <= best.fun + 1e-9
    assert best.fun <= here + 1e-4
    assert_close(theta_of(torch.tensor(best.x)), found.theta, 2e-2)


def test_a_plan_of_known_costs_gives_them_back():
    x, y, theta = torch.randn(12, 2), torch.randn(9, 3), torch.randn(2, 3)
    a, b = (torch.rand(n).add(0.5) for n in (12, 9))
    a, b = a / a.sum(), b / b.sum()
    plan = solve(Problem(a, b, x @ theta @ y.T, 0.5), tol=1e-12).plan()
    assert_close(learn_cost_from_plan(plan, x, y, eps=0.5).theta, theta, 1e-6)
    features = [x[:, i, None] * y[:, j] for i in range(2) for j in range(3)]
    listed = learn_cost_from_plan(1000 * plan, features=features, eps=0.5)
    assert_close(listed.theta, theta.flatten(), 1e-6)
    with pytest.raises(ValueError, match=r"take \.geometry"):
        listed.cost  # noqa: B018
    with pytest.raises(ValueError, match="how many pairs"):
        learn_cost_from_plan(plan, x, y, eps=0.5).standard_errors  # noqa: B018
    assert_close(listed.standard_errors, listed.standard_errors.sqrt().square(), 1e-9)


def test_plans_of_relaxed_marginals_give_costs_back_with_what_x_alone_tells():
    x, y, theta = torch.randn(8, 1), torch.randn(7, 1), torch.tensor([0.8, 0.5])
    a, b = torch.rand(8) + 0.5, torch.rand(7) + 0.5
    features = [x * y.T, (x + 1).square().expand(8, 7)]
    C = theta[0] * features[0] + theta[1] * features[1]
    plan = solve(Problem(a, b, C, 0.5, KL(1.0)), tol=1e-12).plan()
    found = learn_cost_from_plan(plan, features=features, eps=0.5, marginals=KL(1.0), a=a, b=b)
    assert_close(found.theta, theta, 1e-6)


def test_a_path_has_the_same_estimates_and_fewer_steps():
    x, y = pairs(20)
    penalties = [Nuclear(lam) for lam in (0.3, 0.1, 0.03)]
    path = cost_path(x, y, penalties, eps=1.0)
    alone = [learn_cost(x, y, eps=1.0, penalty=penalty) for penalty in penalties]
    for one, other in zip(path, alone, strict=True):
        assert one.converged
        assert_close(one.theta, other.theta, 1e-6)
    assert sum(one.inner_steps for one in path) < sum(one.inner_steps for one in alone)
    assert [int(torch.linalg.matrix_rank(one.theta, atol=1e-8)) for one in path] == sorted(
        int(torch.linalg.matrix_rank(one.theta, atol=1e-8)) for one in path
    )


@pytest.mark.parametrize("kind", [L1, Nuclear])
def test_a_fit_on_what_a_penalty_found_has_its_errors(kind):
    x, y = pairs(30)
    x, y = x - x.mean(0), y - y.mean(0)
    penalty = kind(0.8 * float(torch.linalg.matrix_norm(x.T @ y / 30, 2)))
    found = learn_cost(x, y, eps=1.0, penalty=penalty)
    with pytest.raises(ValueError, match=r"take those of \.refitted"):
        found.standard_errors  # noqa: B018
    again, basis = found.refitted(), penalty.tangent(found.theta)
    assert again.converged
    assert again.certificate is None
    assert 0 < basis.shape[1] < 6
    assert_close(basis.T @ again.gradient.flatten(), torch.zeros(basis.shape[1]), 1e-7)
    assert_close(basis @ basis.T @ again.theta.flatten(), again.theta.flatten(), 1e-9)
    products = torch.einsum("ik,jl,klp->pij", x, y, basis.reshape(3, 2, -1))
    other = learn_cost(x, y, eps=1.0, features=products)
    assert_close(basis @ other.theta, again.theta.flatten(), 1e-6)
    if kind is L1:
        assert_close(basis @ other.standard_errors, again.standard_errors.flatten(), 1e-6)
        assert_close(basis @ other.robust_standard_errors, again.robust_standard_errors.flatten(), 1e-6)
    with pytest.raises(ValueError, match="ranks are tested without a penalty"):
        again.rank_test(0)


def test_certificates_are_one_on_the_tangent_space():
    H = torch.randn(12, 12)
    H = H @ H.T + torch.eye(12)
    sparse = torch.tensor([[0.5, 0, 0, -1.0], [0, 0, 0, 0], [0, 2.0, 0, 0]])
    found = certificate(L1(1.0), sparse, H)
    on = (sparse != 0).flatten().nonzero()[:, 0]
    z = H[:, on] @ torch.linalg.inv(H[on][:, on]) @ sparse.sign().flatten()[on]
    assert_close(found.z.flatten(), z, 1e-10)
    assert found.largest == pytest.approx(float(z[(sparse == 0).flatten()].abs().max()))
    assert found.certified == (found.largest < 1)
    low = torch.randn(3, 1) @ torch.randn(1, 4)
    U, _, Vh = torch.linalg.svd(low)
    z = U.T @ certificate(Nuclear(1.0), low, H).z @ Vh.T
    assert_close(z[0], torch.eye(4)[0], 1e-9)
    assert_close(z[:, 0], torch.eye(3)[0], 1e-9)
    assert certificate(Nuclear(1.0), low, torch.eye(12)).largest == pytest.approx(0, abs=1e-9)
    assert "certified" in repr(learn_cost(*pairs(), eps=1.0, penalty=L1(0.1)))


def test_standard_errors_are_those_of_many_samples():
    """Theta of Gaussian pairs varies from sample to sample as its errors say, and as a bootstrap does."""
    covariance = torch.tensor([[1.0, 0.4], [0.4, 1.0]])
    z = torch.randn(16, 40, 2) @ torch.linalg.cholesky(covariance).T
    found = [learn_cost(one[:, :1], one[:, 1:], eps=1.0, tol=1e-3) for one in z]
    spread = torch.stack([one.theta for one in found]).std(0)
    for errors in ("standard_errors", "robust_standard_errors"):
        mean = torch.stack([getattr(one, errors) for one in found]).mean(0)
        assert 0.5 < float(mean / spread) < 2
    again = found[0].bootstrap(12, generator=torch.Generator().manual_seed(0))
    assert 0.4 < float(again.std(0) / found[0].standard_errors) < 2
    assert found[0].rank_test(0).p_value < 0.05


def test_saliency_splits_the_affinity_and_ranks_are_told():
    x = torch.randn(150, 3) @ torch.randn(3, 3)
    y = x[:, :1] * torch.tensor([[0.8, -0.5]]) + torch.randn(150, 2)
    found = learn_cost(x, y, eps=1.0)
    saliency = found.saliency
    affinity = x @ saliency.x_weights @ saliency.values.diag() @ (y @ saliency.y_weights).T
    assert_close(affinity, -x @ found.theta @ y.T, 1e-8)
    assert_close(torch.cov((x @ saliency.x_weights).T, correction=0), torch.eye(2), 1e-8)
    assert found.rank_test(0).p_value < 1e-3 < found.rank_test(1).p_value
    assert found.rank_test(1).degrees == 2


def test_a_network_learns_the_cost():
    x, y = pairs(20, 2, 2)
    truth = learn_cost(x, y, eps=1.0)

    class Bilinear(torch.nn.Linear):
        def forward(self, x, y):
            return super().forward(x) @ y.mT

    found = train_cost(Bilinear(2, 2, bias=False), x, y, eps=1.0, steps=15, learning_rate=0.3)
    assert truth.loss - 1e-6 <= float(found.losses[-1]) <= truth.loss + 0.2 * float(found.losses[0] - truth.loss)
    assert Points(x, y, cost=found.network).shape == (20, 20)


def test_not_converging_is_a_result():
    x, y = pairs()
    found = learn_cost(x, y, eps=0.5, max_steps=1)
    assert found.status == Status.MAX_STEPS
    assert not found.converged
    assert "not converged (MAX_STEPS)" in repr(found)
    line = torch.linspace(-1, 1, 8)[:, None]
    assert not learn_cost(line, line, eps=0.5, max_steps=15).converged  # no finite cost explains the best pairs


X, Y = torch.randn(6, 2), torch.randn(6, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X, Y[:5]), "as many x as y, got 6 and 5"),
        ((X, Y.T), "as many x as y, got 6 and 2"),
        ((X[:, 0], Y), r"x must have the shape \(points, d\), got \(6,\)"),
        ((X, [[math.nan, 0]] * 6), r"y\[0, 0\]"),
        ((X[:3], Y[:3]), "3 pairs do not tell 4 parameters"),
        ((X * torch.tensor([1.0, 0]) + 3, Y), r"x\[:, 1\] y\[:, 0\], x\[:, 1\] y\[:, 1\] cannot be learned"),
        ((X[:, [0, 0]], Y), "depend on each other"),
    ],
)
def test_pairs_that_tell_nothing_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        learn_cost(*arguments, eps=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 0.0}, "eps must be positive and finite, got 0"),
        ({"eps": 1.0, "weights": -torch.ones(6)}, "weights must not be negative"),
        ({"eps": 1.0, "features": [distance, torch.ones(6, 5)]}, r"features\[1\] must have the shape \(6, 6\)"),
        ({"eps": 1.0, "features": [distance, X[:, :1] + Y[:, 0]]}, r"features\[1\] cannot be learned"),
        ({"eps": 1.0, "features": [distance], "penalty": Nuclear(1.0)}, "Nuclear is a penalty of matrices"),
        ({"eps": 1.0, "marginals": TV(1.0)}, "TV have no Hessian"),
        ({"eps": 1.0, "tol": 0.0}, "tol must be positive"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        learn_cost(X, Y, **settings)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="penalty must be None"):
        learn_cost(X, Y, eps=1.0, penalty=0.1)
    with pytest.raises(TypeError, match="features must be a list"):
        learn_cost(X, Y, eps=1.0, features=distance)
    with pytest.raises(ValueError, match=r"lam in metaot\.inverse\.L1"):
        L1(0.0)
    with pytest.raises(ValueError, match=r"a plan of shape \(5, 6\)"):
        learn_cost_from_plan(torch.ones(5, 6), X, Y, eps=1.0)
