"""One problem in numpy: the rule of over-relaxation, Newton's line search, starts, and no need of torch."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from metaot import Dense, DualPotentials, Problem, single
from metaot.potentials import source_marginal
from metaot.single import DenseProblem
from metaot.single.relaxation import Relaxation, expected_factor
from metaot.single.spread import spread
from metaot.solvers import relaxation
from metaot.solvers.refine import worse_than_zeros


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
def test_over_relaxation_takes_a_fraction_of_the_steps(seed):
    problem = clouds(seed, 30, 40, 3e-3)
    plain, relaxed = (
        single.sinkhorn(problem, 0 * problem.a, tol=1e-6, max_steps=10_000, relaxed=relaxed)
        for relaxed in (False, True)
    )
    assert relaxed.steps < plain.steps / 3
    shift = relaxed.f - plain.f
    assert np.ptp(shift) < 0.05


@pytest.mark.parametrize("theta", [0.5, 0.9, 0.99])
def test_the_factor_tends_to_the_best_one_for_a_linear_rate(theta):
    """Errors that shrink as over-relaxed steps of the rate theta do: omega ends near 2/(1 + sqrt(1 - theta))."""
    factor, error, best = Relaxation(True), 0.4, 2 / (1 + (1 - theta) ** 0.5)
    for step in range(400):
        factor.shown(step, error)
        omega = factor.omega
        root = omega * theta**0.5 / 2
        inside = root**2 - (omega - 1)
        error *= (root + inside**0.5) ** 2 if inside > 0 else omega - 1
    assert 2 - 1.5 * (2 - best) <= factor.omega <= 2 - 0.7 * (2 - best)


@pytest.mark.parametrize("expected", [1.0, 1.3, 1.9])
@pytest.mark.parametrize("first", [0.4, 2.0])
def test_both_rules_are_the_same(first, expected):
    errors = first * np.exp(-0.1 * np.arange(60)) * (1 + 0.3 * np.sin(np.arange(60)))
    mine = Relaxation(True, lambda: expected)
    theirs = relaxation.Relaxation.expecting(torch.tensor([expected], dtype=torch.float64))
    for step, error in enumerate(errors):
        mine.shown(step, float(error))
        theirs = theirs.adjusted(step, torch.tensor([error]))
        assert mine.omega == pytest.approx(float(theirs.omega), abs=1e-12)


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
    np.testing.assert_allclose(single.AxesKernel(costs).times(v), whole @ v)
    np.testing.assert_allclose(single.AxesKernel(costs).transposed_times(v), whole.T @ v)


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
    assert expected_factor(0.0) == 1


@pytest.mark.parametrize("eps", [0.3, 0.03])
def test_the_expected_factor_is_the_best_one_between_gaussians(eps):
    """Plain Sinkhorn shrinks the error by theta, and the factor is 2/(1 + sqrt(1 - theta))."""
    x = np.linspace(-5, 5, 200)
    a = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    problem = DenseProblem((x[:, None] - x) ** 2 / eps, a, a)
    f = single.newton(problem, 0 * a, tol=1e-12, max_steps=60).f
    P, _ = problem.best_plan(f)
    theta = np.linalg.svd(P / np.sqrt(a[:, None] * a), compute_uv=False)[1] ** 2
    omega = expected_factor(spread(problem.C, a, a))
    assert omega == pytest.approx(2 / (1 + (1 - theta) ** 0.5), abs=2e-3)


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
