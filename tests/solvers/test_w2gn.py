"""W2GN: improves any start, recovers linear maps, and what it says of itself is true."""

import pytest
import torch
from clouds import clouds, random_potential
from strategies import assert_close, unchecked

from metaot.amortize.maps import BuresStart, IdentityStart
from metaot.brenier import BrenierPair, Icnn, SampleProblem, conjugate
from metaot.data import Planted
from metaot.objectives import brenier_loss, brenier_value, w2gn_loss
from metaot.potentials import DualPotentials
from metaot.solvers import W2GN, Newton, Sinkhorn, solve

SMALL = Icnn(2, (16,))
QUICK = W2GN(steps=60, learning_rate=0.05, icnn=SMALL, samples=100)
EXACT = W2GN(steps=150, learning_rate=0.1, samples=100, icnn=SMALL, objective=brenier_loss)


def planted(batch: int = 3, samples: int = 200) -> SampleProblem:
    problem = Planted(batch, samples, dim=2, gaussians=0.0).split("test").sample(torch.Generator().manual_seed(1))
    return problem.to(torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("objective", [w2gn_loss, brenier_loss])
@pytest.mark.parametrize("linear", [False, True])
def test_every_step_budget_improves_on_its_start(objective, linear: bool) -> None:
    solver = W2GN(
        steps=100,
        learning_rate=0.05,
        samples=100,
        icnn=SMALL,
        linear=linear,
        objective=objective,
        record=(0, 50, 100),
    )
    history = solve(planted(), solver=solver, tol=1e-9).history
    assert history.shape == (3, 3)
    assert (history[:, 2] > history[:, 0]).all()
    assert (history[:, 1] > history[:, 0]).all()


def test_a_good_start_is_refined_and_a_bad_one_replaced() -> None:
    problem = planted()
    first = solve(problem, solver=QUICK, tol=1e-9)
    again = solve(problem, init=first.pair, solver=QUICK, tol=1e-9)
    assert (again.value > first.value).all()
    away = SampleProblem(problem.x + 50, problem.y)
    bad = BrenierPair(random_potential(away, SMALL), random_potential(away.T, SMALL, seed=1))
    assert_close(solve(problem, init=bad, solver=QUICK, tol=1e-9).value, first.value)


def test_instances_do_not_see_each_other() -> None:
    problem = planted()
    start = solve(problem, solver=QUICK, tol=1e-9).pair
    together = solve(problem, init=start, solver=QUICK, tol=1e-9)
    for k in range(3):
        alone = solve(problem[k], init=start[k], solver=QUICK, tol=1e-9)
        assert_close(alone.transport(), together.transport()[k], atol=1e-6)
        assert alone.value.shape == ()


def test_what_a_solution_says_is_true() -> None:
    problem = planted()
    solution = solve(problem, solver=QUICK, tol=0.2)
    done = solution.error <= 0.2
    assert bool((solution.converged == done).all())
    assert (solution.steps[~done] == QUICK.steps).all()
    assert (solution.steps[done] < QUICK.steps).all()
    assert_close(solution.value, brenier_value(problem, solution.pair))
    assert solve(problem, init=solution.pair, solver=QUICK, tol=float(solution.error.max())).steps.max() == 0


def test_the_map_and_its_inverse_belong_together() -> None:
    problem = planted()
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
    M = torch.tensor([[1.5, 0.4], [0.4, 0.6]])
    problem = SampleProblem(x, x @ M + torch.tensor([1.0, -2.0]))
    moved = solve(problem, solver=EXACT, tol=1e-9).transport()
    assert (moved - problem.y).square().mean() < 0.03 * problem.y.var()


@pytest.mark.parametrize("start", [IdentityStart(), BuresStart()])
def test_any_predictor_is_a_start(start) -> None:
    problem = planted()
    before = brenier_value(problem, start.predict(problem))
    solution = solve(
        problem,
        init=start,
        solver=W2GN(steps=30, learning_rate=0.01, samples=100, objective=brenier_loss),
        tol=1e-9,
    )
    assert (solution.value >= before - 1e-3).all()


def test_contradictory_arguments_are_refused() -> None:
    problem = clouds(2)
    for solver in (Sinkhorn(), Newton(), W2GN, "W2GN"):
        with unchecked(), pytest.raises(TypeError, match=r"solver must be W2GN\(\.\.\.\) or GaussNewton"):
            solve(problem, solver=solver)
    with unchecked(), pytest.raises(TypeError, match="init must be a BrenierPair, or predict one"):
        solve(problem, init=DualPotentials(torch.zeros(30), torch.zeros(30)))
    with pytest.raises(ValueError, match="steps >= 1"):
        W2GN(steps=0)
    with unchecked(), pytest.raises(ValueError, match=r"init\.phi is for dimension 3 and the batch \(\)"):
        solve(problem, init=BrenierPair(*(random_potential(p) for p in (problem[0], problem.T[0]))))
    with pytest.raises(ValueError, match="tol must be positive"):
        solve(problem, tol=0.0)
