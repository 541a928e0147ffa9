"""Starts and results on their way to another library and back."""

import numpy as np
import pytest
import torch
from strategies import SPACES, assert_close, every_batch, every_space, random_problem

from metaot.adapters import pot
from metaot.adapters.support import Support, each, library, one
from metaot.geometry import Dense
from metaot.potentials import DualPotentials, marginal_error, plan
from metaot.problem import Problem
from metaot.solvers import solve


@every_space
def test_the_plan_is_that_of_the_other_convention_on_the_support(space):
    problem = random_problem(space, ())
    potentials = solve(problem, tol=1e-9).potentials
    support = Support.of(one(problem)[0])
    F, G = support.absorbed(potentials)
    theirs = np.exp((F[:, None] + G - support.C) / support.eps)
    ours = plan(problem, potentials)[problem.a > 0][:, problem.b > 0]
    assert_close(torch.from_numpy(theirs), ours, 1e-12)
    assert support.plan_error(theirs) <= 1e-8


@every_space
def test_potentials_come_back_complete(space):
    """Also where there is no mass: solvers of other libraries know none of those."""
    problem = random_problem(space, ())
    exact = solve(problem, tol=1e-12).potentials
    g = exact.g + 0
    support = Support.of(one(problem)[0])
    back = support.completed(*support.absorbed(exact))
    shift = (back.f - exact.f).mean()
    assert_close(back.f - shift, exact.f, 1e-10)
    assert_close(back.g + shift, g, 1e-10)


@every_batch
def test_a_batch_is_taken_apart_in_order(batch):
    eps = 0.1 if not batch else torch.linspace(0.1, 0.2, torch.Size(batch).numel()).reshape(batch)
    problem = random_problem(SPACES["dense, one each"], batch, eps)
    guess = DualPotentials(torch.randn(problem.a.shape), torch.randn(problem.b.shape))
    parts = list(each(problem, guess))
    flat = problem.flat()
    assert len(parts) == len(flat.a)
    for i, (single, start) in enumerate(parts):
        support = Support.of(single)
        assert_close(support.problem.a, flat.a[i])
        assert_close(torch.from_numpy(support.C), flat.geometry[i].C[flat.a[i] > 0][:, flat.b[i] > 0])
        assert_close(start.f, guess.f.reshape(len(parts), -1)[i])


def test_a_huge_constant_in_potentials_changes_nothing():
    pytest.importorskip("ot")
    problem = random_problem()
    exact = solve(problem, tol=1e-9).potentials
    shifted = DualPotentials(exact.f + 1e5, exact.g - 1e5)
    assert pot.sinkhorn(problem, init=shifted, tol=1e-4).steps == 1


def test_float32_problems_get_float32_results():
    pytest.importorskip("ot")
    double = random_problem()
    problem = Problem(double.a.float(), double.b.float(), Dense(double.geometry.C.float()), 0.1)
    solution = pot.sinkhorn(problem, tol=1e-5)
    assert solution.potentials.f.dtype == torch.float32
    assert marginal_error(double, DualPotentials(*(z.double() for z in vars(solution.potentials).values()))) < 1e-4


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


def test_a_library_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'metaot\[peers\]'"):
        library("surely_not_installed", "peers")
