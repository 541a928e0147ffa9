"""Solvers of maps: W2GN and Gauss-Newton improve any start, and what they say of themselves is true."""

import pytest
import torch
from clouds import clouds, random_potential
from strategies import assert_close, unchecked

from metaot.amortize.maps import BuresStart
from metaot.brenier import BrenierPair, Frame, Icnn, SampleProblem, conjugate
from metaot.data import Planted
from metaot.objectives import brenier_loss, brenier_value, w2gn_loss
from metaot.potentials import DualPotentials
from metaot.solvers import W2GN, GaussNewton, gauss_newton, solve
from metaot.solvers.gauss_newton import _curvature, _gradient, _half
from metaot.solvers.maps import new_pair

SMALL = Icnn(2, (16,))
QUICK = W2GN(steps=30, learning_rate=0.05, icnn=SMALL, samples=100)
EXACT = W2GN(steps=150, learning_rate=0.1, samples=100, icnn=SMALL, objective=brenier_loss)


def planted(batch: int = 3, samples: int = 100, dim: int = 2) -> SampleProblem:
    source = Planted(batch, samples, dim=dim, gaussians=0.0).split("test")
    return source.sample(torch.Generator().manual_seed(1)).to(torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize(("objective", "linear"), [(w2gn_loss, False), (w2gn_loss, True), (brenier_loss, True)])
def test_every_step_budget_of_w2gn_improves_on_its_start(objective, linear: bool) -> None:
    settings = {"steps": 60, "learning_rate": 0.05, "samples": 100, "record": (0, 30, 60)}
    solver = W2GN(**settings, icnn=SMALL, linear=linear, objective=objective)
    history = solve(planted(), solver=solver, tol=1e-9).history
    assert history.shape == (3, 3)
    assert (history[:, 1:] > history[:, :1]).all()


@pytest.mark.parametrize(("icnn", "linear"), [(SMALL, True), (Icnn(2, (8, 6), "softplus"), False)])
def test_more_steps_of_gauss_newton_are_never_worse(icnn: Icnn, linear: bool) -> None:
    solver = GaussNewton(6, icnn, linear, record=(0, 1, 3, 6), samples=50)
    history = solve(planted(), solver=solver, tol=1e-9).history
    assert (history.diff(dim=1) >= -2e-3 * history[:, -1:].abs()).all()  # recorded conjugates are exact to 1e-3
    assert (history[:, -1] > history[:, 0]).all()


def test_the_first_step_of_a_good_start_is_not_lost() -> None:
    problem = planted()
    good = solve(problem, solver=GaussNewton(4, SMALL), tol=1e-9)
    again = solve(problem, init=good.pair, solver=GaussNewton(1, seed=1), tol=1e-9)
    assert (again.value >= good.value - 1e-6).all()
    assert (brenier_value(problem.T, again.pair.T) >= brenier_value(problem.T, good.pair.T) - 1e-6).all()


def test_a_good_start_is_refined_and_a_bad_one_replaced() -> None:
    problem = planted()
    first = solve(problem, solver=QUICK, tol=1e-9)
    again = solve(problem, init=first.pair, solver=QUICK, tol=1e-9)
    assert (again.value > first.value).all()
    away = SampleProblem(problem.x + 50, problem.y)
    bad = BrenierPair(random_potential(away, SMALL), random_potential(away.T, SMALL, seed=1))
    assert_close(solve(problem, init=bad, solver=QUICK, tol=1e-9).value, first.value)


def moved(icnn: Icnn, weights: torch.Tensor, k: int, step: float, *half: torch.Tensor) -> torch.Tensor:
    """Return the objective with one weight moved down, and up."""
    change = torch.nn.functional.one_hot(torch.tensor(k), icnn.count) * step
    return torch.stack([_half(icnn, weights + sign * change, *half).objective for sign in (-1, 1)])


def test_the_gradient_is_that_of_the_exact_dual_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "_TOL", 1e-12)
    problem, icnn = planted(1), Icnn(2, (4, 3))
    pair = new_pair(icnn, Frame.identity(problem), 0)
    u, v, weights = pair.phi.frame.enter(problem.x), pair.phi.frame.T.enter(problem.y), pair.phi.weights
    maximisers = _half(icnn, weights, u, v, v).maximisers
    gradient = _gradient(icnn, weights, u, maximisers)
    for k in (0, 9, 20, icnn.count - 1):
        low, high = moved(icnn, weights, k, 1e-4, u, v, maximisers)
        assert_close((high - low) / 2e-4, gradient[:, k], atol=1e-6)


def test_the_curvature_is_the_second_derivative_where_the_map_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a cloud and its own image, the rest of the Hessian of the objective is zero."""
    monkeypatch.setattr(gauss_newton, "_TOL", 1e-12)
    icnn, u = Icnn(2, (4,), "softplus"), torch.randn(1, 300, 2)
    weights = icnn.weights(torch.Generator().manual_seed(3), 1).to(u)
    v = icnn.gradient(weights, u)
    G, middle = _curvature(icnn, weights, u), _half(icnn, weights, u, v, u).objective
    for k in (0, 9, 12, icnn.count - 1):
        low, high = moved(icnn, weights, k, 1e-3, u, v, u)
        assert_close((high + low - 2 * middle) / 1e-6, G[:, k, k], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(("solver", "atol"), [(GaussNewton(2, SMALL, True), 1e-4), (W2GN(10, SMALL), 1e-6)])
def test_instances_do_not_see_each_other(solver, atol: float) -> None:
    problem = planted()
    start = solve(problem, solver=solver, tol=1e-9).pair
    together = solve(problem, init=start, solver=solver, tol=1e-9)
    for k in range(3):
        alone = solve(problem[k], init=start[k], solver=solver, tol=1e-9)
        assert_close(alone.transport(), together.transport()[k], atol=atol)
        assert alone.value.shape == ()


def test_what_a_solution_says_is_true() -> None:
    problem = planted(samples=200)
    solution = solve(problem, solver=QUICK, tol=0.2)
    done = solution.error <= 0.2
    assert torch.equal(solution.converged, done)
    assert (solution.steps[~done] == QUICK.steps).all()
    assert (solution.steps[done] < QUICK.steps).all()
    assert_close(solution.value, brenier_value(problem, solution.pair))
    assert solve(problem, init=solution.pair, solver=QUICK, tol=float(solution.error.max())).steps.max() == 0


@pytest.mark.slow
def test_the_map_and_its_inverse_belong_together() -> None:
    problem = planted(samples=200)
    solution = solve(problem, solver=EXACT, tol=1e-9)
    pair, spread = solution.pair, problem.x.std()
    assert (pair.pull(pair.push(problem.x)) - problem.x).square().mean().sqrt() < 0.35 * spread
    best = conjugate(pair.phi, problem.y).x
    assert (pair.pull(problem.y) - best).square().mean().sqrt() < 0.35 * spread
    moved = solution.transport()
    assert ((moved.mean(1) - problem.y.mean(1)).abs() < 0.1 * problem.y.std(1)).all()
    assert ((moved.std(1) / problem.y.std(1) - 1).abs() < 0.1).all()


def test_linear_maps_between_gaussians_are_recovered_from_the_identity() -> None:
    x = torch.randn(2, 200, 2)
    problem = SampleProblem(x, x @ torch.tensor([[1.5, 0.4], [0.4, 0.6]]) + torch.tensor([1.0, -2.0]))
    moved = solve(problem, solver=GaussNewton(8, SMALL), tol=1e-9).transport()
    assert (moved - problem.y).square().mean() < 0.03 * problem.y.var()


def test_any_predictor_is_a_start_of_w2gn() -> None:
    problem = planted(samples=200)
    solver = W2GN(steps=30, learning_rate=0.01, samples=100, objective=brenier_loss)
    start = BuresStart()
    before, after = start.predict(problem), solve(problem, init=start, solver=solver, tol=1e-9)
    assert (after.value >= brenier_value(problem, before) - 1e-3).all()


def test_a_linear_map_has_no_weights_for_gauss_newton_to_tune() -> None:
    problem = planted()
    with pytest.raises(ValueError, match=r"leave init out, and use GaussNewton\(linear=True\)"):
        solve(problem, init=BuresStart(), solver=GaussNewton(2))
    linear = brenier_value(problem, BuresStart().predict(problem))
    assert (solve(problem, solver=GaussNewton(4, SMALL, linear=True), tol=1e-9).value > linear).all()


def test_clouds_of_different_sizes_and_single_precision() -> None:
    problem = planted()
    uneven = SampleProblem(problem.x.float(), problem.y[:, :70].float())
    solution = solve(uneven, solver=GaussNewton(4, SMALL, linear=True), tol=1e-9)
    assert (solution.value >= brenier_value(uneven, BuresStart().predict(uneven)) - 1e-4).all()
    assert solution.pair.phi.weights.dtype == torch.float32


@pytest.mark.parametrize("kind", [GaussNewton, W2GN])
def test_no_more_steps_are_made_than_allowed(kind) -> None:
    solver = kind(4, SMALL, record=(0, 2, 4))
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


def test_wrong_settings_and_arguments_are_refused() -> None:
    for kind, settings, message in (
        (GaussNewton, {"steps": 0}, "steps >= 1"),
        (GaussNewton, {"samples": 1}, "samples >= 2"),
        (W2GN, {"steps": 0}, "steps >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(**settings)
    problem = clouds(2)
    assert solve(problem, solver=GaussNewton(1), tol=1e-9).steps.tolist() == [1, 1]
    with unchecked(), pytest.raises(TypeError, match="init must be a BrenierPair, a MapSolution, what"):
        solve(problem, init=DualPotentials(torch.zeros(30), torch.zeros(30)))
    with unchecked(), pytest.raises(ValueError, match=r"init\.phi is for dimension 3 and the batch \(\)"):
        solve(problem, init=BrenierPair(*(random_potential(p) for p in (problem[0], problem.T[0]))))
    with pytest.raises(ValueError, match="tol must be positive"):
        solve(problem, tol=0.0)
