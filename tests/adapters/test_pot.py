"""POT takes metaot's potentials for what they are: from the solution it has nothing to do."""

import math

import pytest
import torch
from strategies import assert_close, every_batch, every_space, random_problem, temperatures

from metaot.adapters import pot
from metaot.adapters.support import library
from metaot.geometry import Dense, Points
from metaot.objectives import dual_value
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import solve

ot = pytest.importorskip("ot")
pytestmark = pytest.mark.parity

METHODS = {"sinkhorn": {}, "sinkhorn_log": {}, "sinkhorn_stabilized": {"print_period": 1}}
every_method = pytest.mark.parametrize(("method", "options"), METHODS.items(), ids=METHODS)


@every_method
@every_space
@every_batch
def test_the_plan_is_the_same_and_one_step_from_the_solution(space, batch, method, options):
    """Potentials may be huge, and come back complete where there is no mass, of which POT knows nothing."""
    problem = random_problem(space, batch, temperatures(batch, 0.2, 0.1))
    exact = solve(problem, tol=1e-10)
    f, g = exact.potentials.f, exact.potentials.g
    start = DualPotentials(f + 1e5, g - 1e5)
    cold, warm = (pot.sinkhorn(problem, init=init, method=method, tol=1e-8, **options) for init in (None, start))
    for found in (cold, warm):
        assert found.converged.all()
        assert_close(found.plan(), exact.plan(), 1e-7)
    assert warm.steps.shape == batch
    assert (warm.steps == 1).all()
    assert (cold.steps > 1).any()
    assert_close(warm.value, exact.value, 1e-8)
    shift = (warm.potentials.f - f).mean(-1, keepdim=True)
    assert_close(warm.potentials.f - shift, f, 1e-7)
    assert_close(warm.potentials.g + shift, g, 1e-7)


@every_method
def test_a_prediction_saves_steps_also_by_the_call_that_pot_documents(model, images, method, options):
    cold, warm = (pot.sinkhorn(images, init=init, method=method, tol=1e-2, **options) for init in (None, model))
    assert warm.converged.all()
    assert warm.steps.sum() <= 0.5 * cold.steps.sum()
    a, b, M, reg = pot.arguments(images[0])
    start = pot.warmstart(images[0], model, method=method)
    P, log = ot.sinkhorn(a, b, M, reg, method=method, warmstart=start, log=True, stopThr=1e-2)
    assert log.get("niter", log.get("n_iter")) == 0
    assert abs(P.sum() - 1) <= 1e-2


def test_not_converging_is_a_result(images):
    solution = pot.sinkhorn(images, max_steps=1)
    assert not solution.converged.any()
    assert (solution.steps == 1).all()
    assert solution.error.isfinite().all()


def test_a_kernel_of_zeros_is_a_result():
    """POT's plain method divides by zero there, and stops."""
    problem = random_problem(lambda batch: Dense(1 + torch.rand(7, 5)), eps=1e-3)
    assert not pot.sinkhorn(problem, tol=1e-6).converged
    assert pot.sinkhorn(problem, method="sinkhorn_log", tol=1e-3, max_steps=100_000).converged


def clouds(n: int = 40, eps: float = 1e-2) -> Problem:
    x, y, a, b = torch.rand(n, 2), torch.rand(n, 2), torch.rand(n), torch.rand(n)
    a[:3] = 0
    return Problem(a / a.sum(), b / b.sum(), Points(x, y), eps)


def pivots(problem: Problem, init: object) -> int:
    """Return the number of pivots of the network simplex, by bisection on its limit."""
    low, high = 0, 100_000
    while low < high:
        middle = (low + high) // 2
        try:
            pot.emd2(problem, init=init, max_pivots=middle + 1)
            high = middle
        except RuntimeError:
            low = middle + 1
    return low


@pytest.mark.filterwarnings("ignore:numItermax")
def test_from_dual_potentials_the_network_simplex_has_no_pivot_to_make():
    problem = clouds()
    exact = pot.emd(problem)
    on_mass = DualPotentials(
        exact.potentials.f - problem.eps * problem.a.clamp_min(1e-300).log(),
        exact.potentials.g - problem.eps * problem.b.log(),
    )
    assert pivots(problem, on_mass) == 0


@pytest.mark.filterwarnings("ignore:numItermax")
def test_the_network_simplex_needs_fewer_pivots_from_an_entropic_solution_and_from_a_prediction(model, images):
    problem = clouds(eps=1e-3)
    assert pivots(problem, solve(problem, tol=1e-3).potentials) < 0.5 * pivots(problem, None)
    digits = Problem(images.a, images.b, images.geometry, 1e-3)
    cold, warm = (sum(pivots(digits[i], init) for i in range(4)) for init in (None, model))
    assert warm < 0.6 * cold


@every_space
@every_batch
def test_exact_transport_is_primal_and_dual_and_within_the_bounds(space, batch):
    problem = random_problem(space, batch)
    entropic, C = solve(problem, tol=1e-3), problem.geometry.cost_rows(slice(None))
    for init in (None, entropic.potentials):
        exact = pot.emd(problem, init=init)
        f, g = exact.potentials.f, exact.potentials.g
        assert_close(exact.plan.sum(-1), problem.a, 1e-12)
        assert_close(exact.plan.sum(-2), problem.b, 1e-12)
        assert_close((exact.plan * C).sum((-2, -1)), exact.cost, 1e-12)
        assert (C - f[..., :, None] - g[..., None, :] >= -1e-12).all()
        assert_close((f * problem.a).sum(-1) + (g * problem.b).sum(-1), exact.cost, 1e-12)
        assert_close(pot.emd2(problem, init=init), exact.cost, 1e-12)
    bounds, entropy = entropic.bounds(), problem.eps * math.log(problem.geometry.shape[0])
    assert ((bounds.lower <= exact.cost + 1e-12) & (exact.cost <= bounds.upper + 1e-12)).all()
    assert (dual_value(problem, entropic.potentials) <= exact.cost + entropy).all()


def test_wrong_settings_are_named(images):
    with pytest.raises(ValueError, match=r"method must be one of \['sinkhorn', .*got 'greenkhorn'"):
        pot.sinkhorn(images, method="greenkhorn")
    with pytest.raises(ValueError, match=r"tol must be positive, got 0\.0"):
        pot.sinkhorn(images, tol=0.0)
    with pytest.raises(ValueError, match="max_steps must be at least one, got 0"):
        pot.sinkhorn(images, max_steps=0)
    with pytest.raises(ImportError, match=r"pip install 'metaot\[peers\]'"):
        library("surely_not_installed", "peers")


def test_bad_starts_are_named():
    problem = random_problem()
    f, g = torch.zeros_like(problem.a), torch.zeros_like(problem.b)
    broken = f.clone()
    broken[2] = float("nan")
    with pytest.raises(ValueError, match=r"init.f must be finite, got init.f\[2\] = nan"):
        pot.warmstart(problem, DualPotentials(broken, g))
    with pytest.raises(ValueError, match=r"init.g has the shape \(7,\), the problem's weights \(5,\)"):
        pot.warmstart(problem, DualPotentials(f, f))
    with pytest.raises(ValueError, match=r"got a batch \(3,\): take problem\[i\]"):
        pot.warmstart(random_problem(batch=(3,)), DualPotentials(f.expand(3, 7), g.expand(3, 5)))


def test_float32_problems_get_float32_results():
    double = random_problem()
    problem = Problem(double.a.float(), double.b.float(), Dense(double.geometry.C.float()), 0.1)
    solution = pot.sinkhorn(problem, tol=1e-5)
    assert solution.potentials.f.dtype == torch.float32
    assert marginal_error(double, DualPotentials(*(z.double() for z in vars(solution.potentials).values()))) < 1e-4


def dense(C: torch.Tensor, eps: float) -> Problem:
    return Problem(torch.ones(len(C)) / len(C), torch.rand(C.shape[1]).softmax(-1), Dense(C), eps)


@pytest.mark.parametrize("least", [-300.0, -3.0, -0.5, 7.0])
@pytest.mark.parametrize("init", [False, True])
def test_a_constant_in_the_costs_changes_values_by_it_and_plans_not(least, init):
    """Negative costs were infeasible for the network simplex, and overflowed in the kernel."""
    problem = dense(torch.rand(20, 15), eps=5e-4)
    shifted = Problem(problem.a, problem.b, Dense(problem.geometry.C + least), problem.eps)
    start = solve(shifted, tol=1e-3) if init else None
    exact, expected = pot.emd(shifted, init=start and start.potentials), pot.emd(problem)
    assert_close(exact.plan, expected.plan, 1e-9)
    assert_close(exact.cost, expected.cost + least, 1e-9)
    assert_close(pot.emd2(shifted), expected.cost + least, 1e-9)
    f, g = exact.potentials.f, exact.potentials.g
    assert_close(f @ problem.a + g @ problem.b, exact.cost, 1e-9)
    assert (f[:, None] + g <= shifted.geometry.C + 1e-9).all()


@every_method
def test_sinkhorn_takes_negative_costs(method, options):
    problem = dense(torch.rand(6, 8) - 4, eps=0.05)
    positive = Problem(problem.a, problem.b, Dense(problem.geometry.C + 4), problem.eps)
    found, expected = (pot.sinkhorn(p, method=method, tol=1e-9, **options) for p in (problem, positive))
    assert found.converged.all()
    assert_close(found.plan(), expected.plan(), 1e-8)
    assert_close(found.value, expected.value - 4, 1e-8)
    again = pot.sinkhorn(problem, init=found.potentials, method=method, tol=1e-7, **options)
    assert again.steps == 1


def test_sinkhorn_takes_negative_costs_at_a_small_eps():
    problem = dense(torch.rand(20, 15) - 1, eps=5e-4)
    solution = pot.sinkhorn(problem, tol=1e-2, max_steps=20_000)
    assert solution.error.isfinite().all()
    assert solution.cost().isfinite().all()
