"""Gauss-Newton on the semi-dual: never worse, far fewer steps than Adam, and the right derivatives."""

import pytest
import torch
from clouds import clouds
from strategies import assert_close

from metaot.amortize.maps import BuresStart, IdentityStart
from metaot.brenier import Frame, Icnn, SampleProblem
from metaot.data import Planted
from metaot.objectives import brenier_loss, brenier_value
from metaot.solvers import W2GN, GaussNewton, gauss_newton, solve
from metaot.solvers.gauss_newton import _curvature, _first_half, _gradient
from metaot.solvers.pairs import new_pair

SMALL = Icnn(2, (16,))


def planted(batch: int = 3, samples: int = 100, dim: int = 2) -> SampleProblem:
    source = Planted(batch, samples, dim=dim, gaussians=0.0).split("test")
    return source.sample(torch.Generator().manual_seed(1)).to(torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("icnn", [SMALL, Icnn(2, (8, 6), "softplus")])
def test_more_steps_are_never_worse(icnn: Icnn, linear: bool) -> None:
    solver = GaussNewton(6, icnn, linear, record=(0, 1, 3, 6), samples=50)
    history = solve(planted(), solver=solver, tol=1e-9).history
    assert (history.diff(dim=1) >= -2e-3 * history[:, -1:].abs()).all()  # recorded conjugates are exact to 1e-3
    assert (history[:, -1] > history[:, 0]).all()


def test_the_first_steps_of_a_good_start_are_not_lost() -> None:
    problem = planted()
    good = solve(problem, solver=GaussNewton(8, SMALL), tol=1e-9)
    for steps in (1, 4):
        again = solve(problem, init=good.pair, solver=GaussNewton(steps, seed=1), tol=1e-9)
        assert (again.value >= good.value - 1e-6).all()
        assert (brenier_value(problem.T, again.pair.T) >= brenier_value(problem.T, good.pair.T) - 1e-6).all()


def test_some_steps_are_worth_more_than_many_of_adam() -> None:
    problem = planted()
    quick = solve(problem, solver=GaussNewton(12, SMALL, linear=True), tol=1e-9)
    adam = W2GN(steps=50, learning_rate=0.1, icnn=SMALL, linear=True, objective=brenier_loss)
    assert (quick.value > solve(problem, solver=adam, tol=1e-9).value).all()


def test_the_gradient_is_that_of_the_exact_dual_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "_TOL", 1e-12)
    problem, icnn = planted(1), Icnn(2, (4, 3))
    pair = new_pair(icnn, Frame.identity(problem), 0)
    u, v, weights = pair.phi.frame.enter(problem.x), pair.phi.frame.T.enter(problem.y), pair.phi.weights
    half = _first_half(icnn, weights, u, v, v)
    gradient = _gradient(icnn, weights, u, half.maximisers)
    for k in (0, 9, 20, icnn.count - 1):
        moved = [weights.clone() for _ in range(2)]
        for sign, w in zip((-1, 1), moved, strict=True):
            w[0, k] += sign * 1e-4
        low, high = (_first_half(icnn, w, u, v, half.maximisers).objective for w in moved)
        assert_close((high - low) / 2e-4, gradient[:, k], atol=1e-6)


def test_the_curvature_is_the_second_derivative_where_the_map_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a cloud and its own image, the rest of the Hessian of the objective is zero."""
    monkeypatch.setattr(gauss_newton, "_TOL", 1e-12)
    icnn, u = Icnn(2, (4,), "softplus"), torch.randn(1, 300, 2)
    weights = icnn.weights(torch.Generator().manual_seed(3), 1).to(u)
    v = icnn.gradient(weights, u)
    G = _curvature(icnn, weights, u)
    for k in (0, 9, 12, icnn.count - 1):
        moved = [weights.clone() for _ in range(2)]
        for sign, w in zip((-1, 1), moved, strict=True):
            w[0, k] += sign * 1e-3
        low, high = (_first_half(icnn, w, u, v, u).objective for w in moved)
        middle = _first_half(icnn, weights, u, v, u).objective
        assert_close((high + low - 2 * middle) / 1e-6, G[:, k, k], rtol=1e-2, atol=1e-6)


def test_instances_do_not_depend_on_each_other() -> None:
    problem = planted()
    start = solve(problem, solver=GaussNewton(2, SMALL, linear=True), tol=1e-9).pair
    together = solve(problem, init=start, solver=GaussNewton(2), tol=1e-9)
    for k in range(3):
        single = solve(problem[k], init=start[k], solver=GaussNewton(2), tol=1e-9)
        assert_close(single.transport(), together.transport()[k], atol=1e-4)


def test_clouds_of_different_sizes_and_single_precision() -> None:
    problem = planted()
    uneven = SampleProblem(problem.x.float(), problem.y[:, :70].float())
    solution = solve(uneven, solver=GaussNewton(4, SMALL, linear=True), tol=1e-9)
    assert (solution.value >= brenier_value(uneven, BuresStart().predict(uneven)) - 1e-4).all()
    assert solution.pair.phi.weights.dtype == torch.float32


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps >= 1"):
        GaussNewton(0)
    with pytest.raises(ValueError, match="samples >= 2"):
        GaussNewton(samples=1)
    assert solve(clouds(2), solver=GaussNewton(1), tol=1e-9).steps.tolist() == [1, 1]


@pytest.mark.parametrize("start", [BuresStart(), IdentityStart()])
def test_a_linear_map_has_no_weights_to_tune(start) -> None:
    problem = planted()
    with pytest.raises(ValueError, match=r"leave init out, and use GaussNewton\(linear=True\)"):
        solve(problem, init=start, solver=GaussNewton(2))
    linear = brenier_value(problem, BuresStart().predict(problem))
    assert (solve(problem, solver=GaussNewton(4, SMALL, linear=True), tol=1e-9).value > linear).all()


@pytest.mark.parametrize("solver", [GaussNewton(4, SMALL, record=(0, 2, 4)), W2GN(4, SMALL, record=(0, 2, 4))])
def test_no_more_steps_are_made_than_allowed(solver) -> None:
    for max_steps in (0, 2, 9):
        solution = solve(planted(), solver=solver, tol=1e-9, max_steps=max_steps)
        assert solution.steps.tolist() == [min(max_steps, 4)] * 3
        made = torch.tensor(solver.record) <= max_steps
        assert torch.equal(solution.history.isfinite(), made.expand(3, -1))


@pytest.mark.parametrize(("dim", "samples"), [(2, 512), (3, 512), (6, 256)])
def test_the_curvature_needs_fewer_samples_in_more_dimensions(dim: int, samples: int) -> None:
    problem, icnn = planted(1, 600, dim), Icnn(dim, (4,))
    default, given = (
        solve(problem, solver=GaussNewton(2, icnn, True, samples=count), tol=1e-9) for count in (None, samples)
    )
    assert torch.equal(default.pair.phi.weights, given.pair.phi.weights)
