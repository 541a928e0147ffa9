"""One problem in numpy: acceleration, Newton's line search, starts, and no need of torch."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from metaot.solvers.refine import worse_than_zeros

from metaot import Dense, DualPotentials, Problem, single
from metaot.potentials import source_marginal
from metaot.single import DenseProblem
from metaot.single.anderson import GROWTH, MEMORY, Anderson
from metaot.single.spread import spread
from metaot.solvers import anderson


def clouds(seed: int, k: int, l: int, eps: float) -> DenseProblem:
    """Return the problem between two random clouds on the square."""
    generator = np.random.default_rng(seed)
    x, y = generator.random((k, 2)), generator.random((l, 2))
    a, b = generator.random(k) + 0.01, generator.random(l) + 0.01
    C = ((x[:, None] - y) ** 2).sum(-1) / eps
    return DenseProblem(C, a / a.sum(), b / b.sum())


def test_it_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import metaot.single"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("eps", [1.0, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("method", [single.sinkhorn, single.newton])
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_the_marginals_are_right_at_every_eps_from_every_start(eps, method, size):
    problem = clouds(0, 20, 30, eps)
    C, a, b = problem.C, problem.a, problem.b
    f = size * np.random.default_rng(1).normal(size=20)
    result = method(problem, f, tol=1e-7, max_steps=20_000)
    P, g = problem.best_plan(result.f)
    expected = a[:, None] * b * np.exp(result.f[:, None] + g - C)
    np.testing.assert_allclose(P, expected, atol=1e-9)
    assert np.abs(P.sum(1) - a).sum() <= 1.1e-7
    assert np.abs(P.sum(0) - b).sum() <= 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_acceleration_takes_a_fraction_of_the_steps(seed):
    problem = clouds(seed, 30, 40, 3e-3)
    plain, accelerated = (
        single.sinkhorn(problem, 0 * problem.a, tol=1e-6, max_steps=10_000, accelerated=accelerated)
        for accelerated in (False, True)
    )
    assert accelerated.steps < plain.steps / 5
    shift = accelerated.f - plain.f
    assert np.ptp(shift) < 0.05


def linear_residual(seed: int, n: int, distinct: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return weights, and a residual that is linear and symmetric in L2 of them, with a few eigenvalues."""
    generator = np.random.default_rng(seed)
    a = generator.random(n) + 0.1
    Q, _ = np.linalg.qr(generator.normal(size=(n, n)))
    values = np.linspace(0.01, 0.9, distinct)[np.arange(n) % distinct]
    A = (Q * values @ Q.T) * np.sqrt(a) / np.sqrt(a)[:, None]
    solution = generator.normal(size=n)
    return a / a.sum(), lambda x: A @ (solution - x)


@pytest.mark.parametrize("distinct", [1, 3, 6])
def test_a_step_for_each_slow_mode_is_enough(distinct):
    """As MINRES: the residual is gone after as many steps as it has eigenvalues, and one; plainly after 1500."""
    a, residual = linear_residual(0, 30, distinct)
    x, path = np.zeros(30), Anderson(a)
    for _ in range(distinct + 1):
        x = path.next(x, residual(x), float(np.abs(residual(x)).sum()))
    assert np.abs(residual(x)).sum() < 1e-6


@pytest.mark.parametrize("error", [np.nan, np.inf, 1.01 * GROWTH])
def test_a_point_that_is_far_worse_is_left(error):
    a, residual = linear_residual(0, 5, 2)
    x = np.ones(5)
    path = Anderson(a)
    path.next(x, residual(x), 1.0)
    with np.errstate(all="ignore"):
        back = path.next(x * error, residual(x * error), error)
    np.testing.assert_array_equal(back, x + residual(x))


def test_a_batch_has_the_same_rule():
    """Three instances, one of which gets worse on its way; twice as many steps as are remembered.

    Later it may look back at other steps: a batch counts them together, and keeps them in float32.
    """
    systems = [linear_residual(seed, 30, 20) for seed in range(3)]
    mine = [Anderson(a) for a, _ in systems]
    theirs = anderson.Anderson.of(torch.from_numpy(np.stack([a for a, _ in systems])))
    points = np.zeros((3, 30))
    for step in range(2 * MEMORY):
        residuals = np.stack([residual(x) for x, (_, residual) in zip(points, systems, strict=True)])
        errors = np.abs(residuals).sum(1)
        errors[1] *= 1e3 if step == 4 else 1
        x, r = torch.from_numpy(points), torch.from_numpy(residuals)
        batch, theirs = theirs.judged(x, r, torch.from_numpy(errors)).next(x, r)
        points = np.stack(
            [path.next(*shown) for path, *shown in zip(mine, points, residuals, errors, strict=True)]
        )
        alike = [0, 1, 2] if step < MEMORY else [0, 2]
        np.testing.assert_allclose(batch.numpy()[alike], points[alike], atol=1e-4 * np.abs(points).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e308])
def test_a_start_that_is_not_finite_or_useless_is_zeros(bad):
    problem = clouds(0, 5, 6, 0.1)
    with np.errstate(all="ignore"):
        assert not single.better_start(problem, np.array([bad, 0, -bad, 1, 2]))[0].any()


def test_a_good_start_is_kept():
    problem = clouds(0, 5, 6, 0.1)
    f = single.newton(problem, 0 * problem.a, tol=1e-9, max_steps=30).f
    np.testing.assert_allclose(single.better_start(problem, f + 3)[0], f - f @ problem.a, atol=1e-12)


@pytest.mark.parametrize("sizes", [(5,), (4, 6), (2, 3, 4)])
def test_a_kernel_of_axes_is_their_product(sizes):
    generator = np.random.default_rng(0)
    costs = [generator.random((size, size)) for size in sizes]
    whole = np.ones((1, 1))
    for C in costs:
        whole = np.kron(whole, np.exp(-C))
    v = generator.random(len(whole))
    K = single.AxesKernel(costs)
    np.testing.assert_allclose(K.times(v) * np.exp(-K.offset), whole @ v)
    np.testing.assert_allclose(K.transposed_times(v) * np.exp(-K.offset), whole.T @ v)


def doubly_centred(problem: DenseProblem) -> np.ndarray:
    """Return C less its mean in each row and in each column, as a map between L2 spaces."""
    C, a, b = problem.C, problem.a, problem.b
    rest = C - (C @ b)[:, None] - a @ C + a @ C @ b
    return np.sqrt(a)[:, None] * rest * np.sqrt(b)


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_is_nearly_the_largest_singular_value(seed):
    problem = clouds(seed, 20, 30, 0.1)
    largest = np.linalg.norm(doubly_centred(problem), 2)
    mine = spread(problem.C, problem.a, problem.b)
    assert 0.8 * largest <= mine <= (1 + 1e-12) * largest


def test_functions_of_one_atom_do_not_spread():
    a, b = np.full(3, 1 / 3), np.full(4, 1 / 4)
    assert spread(np.arange(3.0)[:, None] + np.arange(4.0) ** 2, a, b) < 1e-7


def test_steps_in_sight_end_the_search():
    problem = clouds(0, 30, 40, 1e-3)
    result = single.sinkhorn(problem, 0 * problem.a, tol=1e-9, max_steps=10_000, most_ahead=20.0)
    assert result.error > 1e-9
    assert result.steps < 60


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_both_rules_for_starts_are_the_same(seed, size):
    """From about the solution, and ever farther away."""
    problem = clouds(seed, 20, 30, 0.1)
    f = single.sinkhorn(problem, 0 * problem.a, tol=1e-6, max_steps=1000).f
    f = f + size * np.random.default_rng(seed).normal(size=20)
    kept = bool(single.better_start(problem, f)[0].any())
    C, a, b = (torch.from_numpy(part) for part in (problem.C, problem.a, problem.b))
    whole = Problem(a[None] / a.sum(), b[None] / b.sum(), Dense(C), 1.0)
    start = DualPotentials.from_f(whole, torch.from_numpy(f)[None])
    missing = (source_marginal(whole, start) - whole.a).abs().sum(-1)
    assert kept == (not bool(worse_than_zeros(whole, start, missing)))
