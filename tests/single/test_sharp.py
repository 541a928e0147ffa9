"""Newton on the few entries of a large plan that count: the same numbers as on all of them."""

import numpy as np
import pytest

from metaot.single import DenseProblem, newton, sharp_newton
from metaot.single.choose import is_sharp
from metaot.single.near import Near, best_of_rows
from metaot.single.plan import Array


def problem(k: int = 12, l: int = 1500, eps: float = 3e-3, seed: int = 0) -> DenseProblem:
    rng = np.random.default_rng(seed)
    x, y = rng.random((k, 2)), rng.random((l, 2))
    C = np.linalg.norm(x[:, None] - y, axis=-1)
    a, b = rng.random(k) + 0.1, rng.random(l)
    return DenseProblem(C / eps, a / a.sum(), b / b.sum())


def dual(p: DenseProblem, f: Array) -> float:
    return float(f @ p.a + p.best_g(f) @ p.b)


@pytest.mark.parametrize("eps", [1e-3, 3e-3, 3e-2, 1.0])
@pytest.mark.parametrize("moved", [0.0, 4.0, 20.0])
def test_a_plan_on_the_entries_that_count_is_the_plan(eps: float, moved: float) -> None:
    p, rng = problem(eps=eps), np.random.default_rng(1)
    reference = rng.normal(size=12) * 0.05 / eps
    f = reference + rng.uniform(-moved / 2, moved / 2, 12)
    near = Near(p, reference, slack=20.0)
    assert near.reaches(f)
    plan = near.plan(f)
    P, g = p.best_plan(f)
    assert np.abs(plan.source - P.sum(1)).max() < 1e-14
    assert np.abs(near.best_g(plan) - g).max() < 1e-10
    assert near.value(plan) == pytest.approx(dual(p, f), rel=1e-12)
    assert near.gain(near.plan(reference), plan) == pytest.approx(dual(p, f) - dual(p, reference), abs=1e-9)
    exact = np.diag(P.sum(1)) - (P / p.b) @ P.T
    assert np.abs(near.hessian(plan) - exact).max() < 3e-6


def test_entries_suffice_up_to_the_slack_and_no_further() -> None:
    p = problem()
    near = Near(p, np.zeros(12), slack=5.0)
    step = np.zeros(12)
    step[3] = 5.0
    assert near.reaches(step)
    assert near.reaches(step + 100)
    assert not near.reaches(1.01 * step)


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_solution_that_newton_finds_on_all_entries(seed: int) -> None:
    p = problem(seed=seed)
    sharp = sharp_newton(p, None, tol=1e-11, max_steps=100)
    full = newton(p, sharp.f, tol=1e-11, max_steps=100)
    assert sharp.error <= 1e-11
    assert full.steps <= 1
    P, g = p.best_plan(sharp.f)
    assert np.abs(P.sum(1) - p.a).sum() == pytest.approx(sharp.error, abs=1e-13)
    assert sharp.g is not None
    assert np.abs(sharp.g - g).max() < 1e-10


def test_columns_without_mass_have_a_best_potential_too() -> None:
    p = problem()
    b = p.b.copy()
    b[::3] = 0
    p = DenseProblem(p.C, p.a, b / b.sum())
    result = sharp_newton(p, None, tol=1e-10, max_steps=100)
    assert result.error <= 1e-10
    assert result.g is not None
    assert np.abs(result.g - p.best_g(result.f)).max() < 1e-10


def test_one_row_and_equal_columns() -> None:
    p = problem(k=1)
    assert sharp_newton(p, None, tol=1e-12, max_steps=10).error <= 1e-12
    p = problem(k=5, l=60)
    many = DenseProblem(np.repeat(p.C, 10, 1), p.a, np.repeat(p.b, 10) / 10)
    few = sharp_newton(p, None, tol=1e-11, max_steps=50)
    same = sharp_newton(many, None, tol=1e-11, max_steps=50)
    assert np.ptp(few.f - same.f) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_a_good_start_saves_most_steps_and_no_start_costs_many(seed: int) -> None:
    p, rng = problem(k=20, seed=seed), np.random.default_rng(seed)
    cold = sharp_newton(p, None, tol=1e-9, max_steps=100)
    near = sharp_newton(p, cold.f + rng.normal(size=20) * 0.3, tol=1e-9, max_steps=100)
    assert near.steps <= cold.steps // 2
    for start in (np.full(20, np.nan), 1e300 * rng.normal(size=20), rng.normal(size=20) / 3e-3, -10 * cold.f):
        assert sharp_newton(p, start, tol=1e-9, max_steps=100).steps <= cold.steps + 1


def test_steps_are_limited_and_their_end_is_told() -> None:
    p = problem(k=20)
    stopped = sharp_newton(p, None, tol=1e-12, max_steps=4)
    assert stopped.steps == 4
    assert stopped.error > 1e-12
    P, _ = p.best_plan(stopped.f)
    assert np.abs(P.sum(1) - p.a).sum() == pytest.approx(stopped.error, abs=1e-12)


def test_only_few_by_many_at_a_small_temperature_is_sharp() -> None:
    assert is_sharp(problem(k=20, l=2000, eps=1e-3))
    assert not is_sharp(problem(k=20, l=2000, eps=1.0))
    assert not is_sharp(problem(k=150, l=160, eps=1e-3))


def test_the_best_f_of_rows() -> None:
    p = problem()
    g = np.random.default_rng(0).normal(size=1500)
    best = DenseProblem(p.C, np.ones(12), p.b).best_f(g)
    assert np.abs(best_of_rows(p.C, g, p.b) - best).max() < 1e-11
