"""What `solve` promises for every solver: truth for each instance, whatever it starts from."""

from dataclasses import replace

import pytest
import torch
from hypothesis import strategies as st
from strategies import (
    SPACES,
    assert_close,
    both_back_ends,
    every_batch,
    every_dtype,
    every_solver,
    every_space,
    given_problems,
    matrix,
    random_problem,
    solvers,
    temperatures,
    unchecked,
    weights,
)
from torch import Tensor

from metaot.geometry import Dense, Grid
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, Solution, Status, solve


def plan_error(solution: Solution) -> Tensor:
    """Return the L1 error of both marginals of the plan itself."""
    P, problem = solution.plan(), solution.problem
    return (P.sum(-1) - problem.a).abs().sum(-1) + (P.sum(-2) - problem.b).abs().sum(-1)


def start(f: Tensor, problem: Problem) -> DualPotentials:
    """Return potentials with this f and a g that is of no use."""
    return DualPotentials(f, torch.full_like(problem.b, torch.nan))


@both_back_ends
@every_space
@pytest.mark.parametrize("share", [1e-3, 0.02, 0.05, 0.3])
def test_a_start_that_is_returned_has_the_best_g_for_it(space, share):
    """Also one that was compared with zeros, which takes the same room."""
    problem = random_problem(space, (), 0.05)
    solved = solve(problem, tol=1e-9).potentials.f
    f = solved + share * 0.05 * torch.randn(solved.shape, generator=torch.Generator().manual_seed(1))
    solution = solve(problem, init=start(f, problem), solver=Sinkhorn(), max_steps=0)
    assert_close(solution.error, plan_error(solution), 1e-9)
    assert_close(solution.potentials.g, c_transform(problem, solution.potentials.f), 1e-9)


@both_back_ends
@every_solver
@every_space
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_what_a_solution_says_is_true(solver, space, batch):
    problem = random_problem(space, batch, temperatures(batch, 1.0, 0.05))
    for max_steps in (0, 3, 10_000):
        solution = solve(problem, solver=solver, tol=1e-6, max_steps=max_steps)
        for part in (solution.error, solution.converged, solution.steps, solution.value, solution.cost()):
            assert part.shape == batch
        f, g = solution.potentials.f, solution.potentials.g
        assert_close(solution.error, plan_error(solution), 1e-9)
        assert torch.equal(solution.converged, solution.error <= 1e-6)
        assert (solution.steps <= max_steps).all()
        assert (solution.converged | (solution.steps == max_steps)).all()
        assert solution.status is (Status.CONVERGED if solution.converged.all() else Status.MAX_STEPS)
        assert_close(solution.cost(), (matrix(problem.geometry) * solution.plan()).sum((-2, -1)))
        assert_close(solution.value, dual_value(problem, solution.potentials), 0)
    assert solution.status is Status.CONVERGED
    nobody = problem.a == 0
    assert_close(f[nobody], c_transform(problem.T, g)[nobody], 1e-5)
    nobody = problem.b == 0
    assert_close(g[nobody], c_transform(problem, f)[nobody], 1e-9)


@both_back_ends
@every_solver
@every_space
@pytest.mark.parametrize("max_steps", [3, 10_000])
def test_a_batch_is_solved_as_its_instances_are(solver, space, max_steps):
    problem = random_problem(space, (2, 2), temperatures((2, 2), 1.0, 0.05))
    batch = solve(problem, solver=solver, max_steps=max_steps)
    for index in ((0, 1), (1, 0), (1, 1)):
        alone = solve(problem[index], solver=solver, max_steps=max_steps)
        assert alone.steps == batch.steps[*index]
        assert_close(alone.error, batch.error[*index], 1e-8)
        assert_close(alone.potentials.f, batch.potentials.f[*index], 1e-6)
        assert_close(alone.potentials.g, batch.potentials.g[*index], 1e-6)


@every_solver
def test_float32_is_right_to_its_rounding(solver):
    """Potentials of about |C| = 1 lose 1e-7 |C|/eps of the marginals."""
    problem = random_problem(lambda batch: Grid(8, 8), (4,), 1e-2)
    double = solve(problem, solver=solver, tol=1e-6)
    single = solve(problem.to(torch.empty(0, dtype=torch.float32)), solver=solver, tol=2e-4)
    assert single.potentials.f.dtype == single.error.dtype == torch.float32
    assert single.status is Status.CONVERGED
    assert_close(single.cost(), double.cost(), 2e-4)
    assert_close(single.value, double.value, 1e-5)
    plan = single.plan().double()
    assert_close((plan.sum(-1) - problem.a).abs().sum(-1), 0.0, 4e-4)
    assert_close((plan.sum(-2) - problem.b).abs().sum(-1), 0.0, 4e-5)


@given_problems(lowest_eps=0.1, solver=solvers)
def test_a_start_at_the_solution_takes_no_step(problem, solver):
    """Only f is taken of it, and completed: what that moves is no more mass than the error was."""
    for tol in (1e-6, 1e-9):
        solution = solve(problem, solver=solver, tol=tol)
        again = solve(problem, solver=solver, init=solution.potentials)
        assert (again.steps == 0).all()
        assert_close(again.value, solution.value, 1e-9)
    assert_close(again.cost(), solution.cost(), 1e-8)


BAD_STARTS = {
    "huge": lambda a: 1e3 * torch.randn_like(a),
    "too large for its digits": lambda a: 1e200 * torch.randn_like(a),
    "largest": lambda a: 1.7e308 * torch.randn_like(a).sign(),
    "nan": lambda a: torch.full_like(a, torch.nan),
    "one nan": lambda a: torch.zeros_like(a).index_fill(-1, torch.tensor(1), torch.nan),
    "inf": lambda a: torch.full_like(a, torch.inf),
    "one -inf": lambda a: torch.zeros_like(a).index_fill(-1, torch.tensor(2), -torch.inf),
}


@both_back_ends
@every_solver
@pytest.mark.parametrize("name", ["dense", "grid", "points, one each"])
def test_a_useless_start_costs_at_most_one_step_and_does_not_spoil_the_others(solver, name):
    problem = random_problem(SPACES[name], (2, 3), 0.1)
    cold = solve(problem, solver=solver)
    for bad in BAD_STARTS.values():
        f = cold.potentials.f.clone()
        f[1] = bad(problem.a[1])
        warm = solve(problem, solver=solver, init=start(f, problem))
        assert (warm.steps[0] == 0).all()
        assert (warm.steps[1] <= cold.steps[1] + 1).all()
        assert warm.status is Status.CONVERGED
        assert_close(warm.cost(), cold.cost(), 1e-5)


@both_back_ends
@every_dtype
@every_solver
@pytest.mark.parametrize("name", ["dense", "grid", "points"])
def test_a_start_that_is_not_finite_does_not_come_back(solver, dtype, name):
    problem = random_problem(SPACES[name], (7,), 0.1).to(torch.empty(0, dtype=dtype))
    f = torch.stack([bad(problem.a[0].double()) for bad in BAD_STARTS.values()])
    for max_steps in (0, 2):
        solution = solve(problem, solver=solver, init=start(f.to(dtype), problem), max_steps=max_steps)
        for part in (solution.potentials.f, solution.potentials.g, solution.error):
            assert part.isfinite().all()


@given_problems(lowest_eps=0.1, size=st.floats(0, 30), solver=solvers)
def test_a_start_of_a_smaller_dual_value_costs_at_most_one_step(problem, solver, size):
    guess = DualPotentials.from_f(problem, size * torch.randn_like(problem.a))
    zeros = DualPotentials.from_f(problem, torch.zeros_like(problem.a))
    cold, warm = solve(problem, solver=solver), solve(problem, solver=solver, init=guess)
    worse = dual_value(problem, guess) < dual_value(problem, zeros) - 1e-9
    assert (warm.steps[worse] <= cold.steps[worse] + 1).all()
    assert_close(warm.value[worse], cold.value[worse], 1e-6)


@both_back_ends
@every_solver
def test_a_better_start_needs_fewer_steps(solver):
    """The nearer the start, the fewer the steps, on average."""
    problem = random_problem(lambda batch: Grid(6, 6), (20,), 0.05)
    solution = solve(problem, solver=solver, tol=1e-9)
    noise = torch.randn_like(problem.a)
    starts = [start(solution.potentials.f + size * noise, problem) for size in (1e-4, 1e-3, 1e-2)]
    steps = [solve(problem, solver=solver, init=init).steps.double().mean() for init in starts]
    cold = solve(problem, solver=solver).steps.double().mean()
    assert steps[0] < steps[1] < steps[2] < cold


@every_solver
def test_a_predictor_is_a_start(solver):
    problem = random_problem(SPACES["grid"], (2, 3), 0.1)
    problem = replace(problem, a=problem.a.requires_grad_())
    solution, seen = solve(problem, solver=solver), []

    class Oracle:
        def predict(self, problem: Problem) -> DualPotentials:
            seen.append(problem)
            single = solution.potentials.f.float(), solution.potentials.g.float()
            return DualPotentials(*single)

    warm = solve(problem, solver=solver, init=Oracle(), tol=1e-4)
    assert len(seen) == 1
    assert seen[0] is problem
    assert (warm.steps == 0).all()
    assert warm.potentials.f.dtype == torch.float64, "the solver's dtype is that of the problem"
    assert not warm.potentials.f.requires_grad
    assert not warm.error.requires_grad


@given_problems(lowest_eps=0.1, s=st.floats(0.01, 100), solver=solvers)
def test_potentials_scale_with_the_units_of_the_cost(problem, solver, s):
    solution = solve(problem, solver=solver)
    scaled = replace(problem, geometry=Dense(s * matrix(problem.geometry)), eps=s * problem.eps)
    other = solve(scaled, solver=solver)
    assert_close(other.plan(), solution.plan(), 1e-6)
    assert_close(other.value, s * solution.value, rtol=1e-6)
    assert_close(other.cost(), s * solution.cost(), rtol=1e-5)


@given_problems(lowest_eps=0.1, solver=solvers)
def test_the_solution_of_the_transpose_is_the_transpose(problem, solver):
    solution, transposed = (solve(p, solver=solver, tol=1e-9) for p in (problem, problem.T))
    assert_close(transposed.plan(), solution.plan().mT, 1e-7)
    assert_close(transposed.value, solution.value, 1e-7)


@given_problems(lowest_eps=0.1, solver=solvers)
def test_padding_with_atoms_without_mass_changes_nothing(problem, solver):
    C, padding = matrix(problem.geometry), torch.nn.functional.pad
    rows = torch.rand(*C.shape[:-2], 2, C.shape[-1])
    columns = torch.rand(*C.shape[:-2], C.shape[-2] + 2, 3)
    padded = Problem(
        padding(problem.a, (0, 2)),
        padding(problem.b, (0, 3)),
        Dense(torch.cat([torch.cat([C, rows], -2), columns], -1)),
        problem.eps,
    )
    solution, other = solve(replace(problem, geometry=Dense(C)), solver=solver), solve(padded, solver=solver)
    assert torch.equal(other.steps, solution.steps)
    assert_close(other.error, solution.error)
    assert_close(other.value, solution.value)
    assert_close(other.potentials.f[..., :-2], solution.potentials.f)
    assert_close(other.potentials.g[..., :-3], solution.potentials.g)
    assert_close(other.plan(), padding(solution.plan(), (0, 3, 0, 2)))


@both_back_ends
@every_solver
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0, 0.0])
def test_an_instance_without_weights_is_told_and_harms_no_other(solver, bad):
    good = random_problem(SPACES["grid"], (3,), 0.1)
    a = good.a.clone()
    a[1] = bad
    solution = solve(Problem.trusted(a, good.b, good.geometry, good.eps), solver=solver)
    assert solution.status is Status.NONFINITE
    assert solution.converged.tolist() == [True, False, True]
    assert solution.potentials.f.isfinite().all()
    assert solution.potentials.g.isfinite().all()
    assert solution.error[1] == torch.inf
    assert_close(solution.cost()[[0, 2]], solve(good, solver=solver).cost()[[0, 2]])


@both_back_ends
@every_solver
@pytest.mark.parametrize("name", ["dense", "grid", "points"])
def test_an_empty_batch_is_solved(solver, name):
    solution = solve(random_problem(SPACES[name], (0,), 0.1), solver=solver)
    assert solution.status is Status.CONVERGED
    assert solution.cost().shape == (0,)


@pytest.mark.parametrize("name", ["grid", "points", "points, one each", "points, euclidean"])
@every_batch
def test_transport_sends_atoms_to_the_mean_of_their_targets(name, batch):
    problem = random_problem(SPACES[name], batch, 0.1)
    solution = solve(problem)
    P, (_, y) = solution.plan(), problem.geometry.points
    sent = solution.transport()
    assert sent.shape == (*problem.a.shape, y.shape[-1])
    assert_close(sent * P.sum(-1)[..., None], P @ y, 1e-9)
    assert_close((problem.a[..., None] * sent).sum(-2), (problem.b[..., None] * y).sum(-2), 1e-5)
    assert_close(solution.transport(torch.ones(*problem.b.shape, 2)), 1.0)


def test_a_matrix_has_no_coordinates_to_transport():
    with pytest.raises(ValueError, match="Dense geometry has no coordinates: pass the values"):
        solve(random_problem(SPACES["dense"])).transport()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": -1e-3}, "tol must be positive, got -0.001"),
        ({"tol": float("nan")}, "tol must be positive, got nan"),
        ({"max_steps": -1}, "max_steps must not be negative, got -1"),
        (
            {"init": DualPotentials(torch.zeros(3, 4), torch.zeros(3, 5))},
            r"init.g has the shape \(3, 5\), the problem's weights \(3, 4\)",
        ),
        (
            {"init": DualPotentials(torch.zeros(4), torch.zeros(4))},
            r"init.f has the shape \(4,\), .* \(3, 4\)",
        ),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    problem = Problem(weights(3, 4), weights(3, 4), Grid(4), 0.1)
    with unchecked(), pytest.raises(ValueError, match=message):
        solve(problem, **arguments)
