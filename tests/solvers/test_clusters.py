"""Coarse to fine between clouds: the same solutions as from zeros, in fewer steps, with errors that hold."""

from collections.abc import Callable

import pytest
import torch
from strategies import assert_close
from test_back_ends import by_torch, needs_both
from torch import Tensor

from metaot.core import method
from metaot.geometry import Points
from metaot.marginals import KL, TV
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

pytestmark = needs_both


@pytest.fixture
def small_clouds(monkeypatch):
    """Have clusters between a few hundred atoms."""
    monkeypatch.setattr(method, "_PAIRS", 2**16)
    monkeypatch.setattr(method, "_COARSEST", 64)


def cloud(n: int, d: int, seed: int) -> Tensor:
    """Return points of a few bells."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(4, d, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 4, (n,), generator=generator)
    return centres[which] + 0.15 * torch.randn(n, d, generator=generator, dtype=torch.float64)


def weights(n: int, seed: int) -> Tensor:
    w = 0.1 + torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w / w.sum()


def between(n: int, m: int, d: int, eps: float, cost: str = "sqeuclidean", **marginals: KL | TV) -> Problem:
    x, y = cloud(n, d, 1), cloud(m, d, 2)
    if cost == "sphere":
        x, y = (z / z.norm(dim=-1, keepdim=True) for z in (x - 0.5, y - 0.5))
    return Problem(weights(n, 3), weights(m, 4), Points(x, y, cost=cost), eps, **marginals)


def with_zeros(problem: Problem) -> Problem:
    """Take the mass of every third source atom."""
    a = problem.a.clone()
    a[::3] = 0
    return Problem(a / a.sum(), problem.b, problem.geometry, problem.eps)


def with_duplicates() -> Problem:
    x, y = cloud(250, 2, 1), cloud(750, 2, 2)
    return Problem(weights(750, 3), weights(750, 4), Points(x.repeat(3, 1), y), 2e-2)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "plane": lambda: between(600, 700, 2, 2e-2),
    "small eps": lambda: between(600, 700, 2, 3e-3),
    "space": lambda: between(600, 700, 3, 5e-2),
    "line": lambda: between(600, 700, 1, 5e-3),
    "five dimensions": lambda: between(600, 700, 5, 0.2),
    "one side is small": lambda: between(2400, 300, 2, 2e-2),
    "distances": lambda: between(600, 700, 2, 5e-2, "euclidean"),
    "atoms without mass": lambda: with_zeros(between(900, 700, 2, 2e-2)),
    "duplicates": with_duplicates,
    "KL": lambda: between(600, 700, 2, 2e-2, marginals=KL(0.3)),
    "TV": lambda: between(600, 700, 2, 5e-2, marginals=TV(0.2)),
}


@pytest.mark.usefixtures("small_clouds")
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_is_that_from_zeros_in_fewer_steps(name):
    problem = PROBLEMS[name]()
    quick, slow = solve(problem, tol=1e-5), solve(problem, solver=Sinkhorn(), tol=1e-5)
    assert quick.converged
    assert quick.steps < slow.steps
    assert_close(quick.value, slow.value, 1e-5)
    assert_close(quick.cost(), slow.cost(), 1e-4)
    if problem.is_balanced:
        assert marginal_error(problem, quick.potentials) <= 1.01e-5  # no block that was left out counts
        found, known = (s.potentials.f - (problem.a * s.potentials.f).sum() for s in (quick, slow))
        assert (found - known)[problem.a > 0].abs().max() <= 0.3 * problem.eps


@pytest.mark.usefixtures("small_clouds")
def test_torch_finds_the_same():
    problem = between(600, 700, 2, 2e-2)
    assert_close(solve(problem, tol=1e-6).cost(), by_torch(problem, tol=1e-6).cost(), 1e-5)


def test_blocks_that_are_left_out_do_not_count():
    """Of clouds too large for a matrix in a cache, whose blocks are compared in groups."""
    problem = between(2500, 2600, 2, 3e-3)
    solution = solve(problem, tol=1e-3)
    assert solution.converged
    assert marginal_error(problem, solution.potentials) <= 1.01e-3


def test_steps_hardly_depend_on_the_number_of_atoms():
    steps = [solve(between(n, n, 2, 2e-2), tol=1e-4).steps.item() for n in (2100, 8400)]
    assert steps[1] <= steps[0] + 1


@pytest.mark.usefixtures("small_clouds")
def test_starts_that_are_better_are_kept():
    problem = between(600, 700, 2, 2e-2)
    exact = solve(problem, tol=1e-9).potentials
    assert solve(problem, init=exact, tol=1e-7).steps == 0
    for bad in (torch.nan, 1e9):
        far = solve(problem, init=DualPotentials(exact.f * bad, exact.g), tol=1e-4)
        assert far.converged


@pytest.mark.usefixtures("small_clouds")
def test_threads_and_batches_change_nothing():
    problem = between(600, 700, 2, 2e-2)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(solve(problem, tol=1e-5).potentials.f)
    finally:
        torch.set_num_threads(before)
    space = problem.geometry
    points = Points(torch.stack((space.x, space.x + 1)), torch.stack((space.y, space.y + 1)))
    a, b = problem.a.expand(2, -1), problem.b.expand(2, -1)
    together = solve(Problem(a, b, points, problem.eps), tol=1e-5).potentials.f
    for f in (found[1], *together):
        assert_close(f, found[0], 1e-9)


def test_clusters_are_a_fourth_as_many_down_to_some_hundred():
    assert method.clusters([(1000, 1000)], 2) == ()
    assert method.clusters([(10**5, 10**5)], 0) == ()
    assert method.clusters([(10**4, 10**4)], 2) == [(4,), (16,), (64,)]
    assert len(method.clusters([(10**9, 10**9)], 2)) <= method.MOST_LEVELS
