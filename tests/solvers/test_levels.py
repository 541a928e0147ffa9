"""Coarse to fine on grids: the same solutions as from zeros, in a few steps, by compiled code and by torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import pytest
import torch
from strategies import assert_close, both_back_ends
from test_back_ends import by_torch, needs_both
from torch import Tensor

from metaot.core import method
from metaot.core.method import Limits, Result
from metaot.geometry import Grid
from metaot.marginals import KL, TV, as_marginals
from metaot.potentials import DualPotentials, c_transform, marginal_error, plan
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve
from metaot.solvers.correction import Correction, Interpolation, Transfer
from metaot.solvers.levels import levels_of
from metaot.solvers.refine import refine


def smooth_images(grid: Grid, batch: int, seed: int = 0, floor: float = 0.02) -> Tensor:
    """Return weights of a few bells each, and a little everywhere."""
    generator = torch.Generator().manual_seed(seed)
    x = grid.points[0].double()
    x = (x - x.amin(0)) / (x.amax(0) - x.amin(0))
    centres = torch.rand(batch, 4, 1, x.shape[1], generator=generator, dtype=torch.float64)
    density = (-(x - centres).square().sum(-1) / 0.02).exp().sum(1) + floor
    return density / density.sum(-1, keepdim=True)


def problem_on(grid: Grid, eps: float | Tensor, batch: int = 2, floor: float = 0.02) -> Problem:
    return Problem(smooth_images(grid, batch, 1, floor), smooth_images(grid, batch, 2, floor), grid, eps)


UNEVEN = Grid(torch.linspace(0, 1, 52).square(), torch.linspace(2, 1, 48))
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "square": lambda: problem_on(Grid(48, 48), 1e-2),
    "square, small eps": lambda: problem_on(Grid(48, 48), 2e-3),
    "rectangle": lambda: problem_on(Grid(96, 24), 1e-2),
    "uneven, one axis backwards": lambda: problem_on(UNEVEN, 1e-2),
    "distances": lambda: problem_on(Grid(48, 48, cost="l1"), 0.1),
    "a cost for each axis": lambda: problem_on(Grid(48, 48, cost=("sqeuclidean", "l1")), 0.1),
    "volume": lambda: problem_on(Grid(16, 15, 14), 2e-2),
    "four axes": lambda: problem_on(Grid(9, 8, 8, 7), 6e-2),
    "an eps each": lambda: problem_on(Grid(48, 48), torch.tensor([1e-2, 5e-3])),
    "half of the atoms": lambda: half_of_the_atoms(problem_on(Grid(72, 72), 1e-2)),
    "KL": lambda: replace(problem_on(Grid(48, 48), 1e-2), marginals=KL(0.3)),
    "KL, other masses": lambda: with_masses(problem_on(Grid(48, 48), 1e-2), 30.0, 70.0),
    "TV": lambda: replace(problem_on(Grid(48, 48), 1e-2), marginals=TV(0.2)),
}


def with_masses(problem: Problem, first: float, second: float) -> Problem:
    return Problem(first * problem.a, second * problem.b, problem.geometry, problem.eps, KL(0.3))


def half_of_the_atoms(problem: Problem) -> Problem:
    """Leave out the atoms with the least weights."""
    a, b = (torch.where(w >= w.median(-1, keepdim=True).values, w, 0.0) for w in (problem.a, problem.b))
    return replace(problem, a=a / a.sum(-1, keepdim=True), b=b / b.sum(-1, keepdim=True))


@needs_both
@pytest.mark.parametrize("name", PROBLEMS)
def test_compiled_code_and_torch_make_the_same_steps(name):
    problem = PROBLEMS[name]()
    compiled, torch_ = solve(problem, tol=1e-6), by_torch(problem, tol=1e-6)
    assert (compiled.steps - torch_.steps).abs().amax() <= 1
    assert compiled.converged.all()
    assert torch_.converged.all()
    assert_close(compiled.cost(), torch_.cost(), 1e-6)


@both_back_ends
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_is_that_from_zeros_in_fewer_steps(name):
    problem = PROBLEMS[name]()
    quick, slow = solve(problem, tol=1e-9), solve(problem, solver=Sinkhorn(), tol=1e-9)
    assert quick.converged.all()
    assert (quick.error <= 1e-9).all()
    assert (quick.steps < slow.steps).all()
    assert_close(quick.value, slow.value, 1e-8)
    assert_close(quick.cost(), slow.cost(), 1e-8)
    if problem.is_balanced:
        assert (marginal_error(problem, quick.potentials) <= 1.1e-9).all()


@both_back_ends
@pytest.mark.parametrize(("size", "eps", "steps"), [(64, 1e-2, 5), (64, 1e-3, 14)])
def test_the_last_digits_take_a_few_steps(size, eps, steps):
    """From zeros these take 20 and 80."""
    solution = solve(problem_on(Grid(size, size), eps), tol=1e-6)
    assert (solution.steps <= steps).all(), solution.steps


@both_back_ends
def test_the_unit_of_mass_does_not_matter():
    steps = [
        solve(with_masses(problem_on(Grid(48, 48), 5e-3), mass, 2 * mass), tol=1e-8).steps
        for mass in (1e-3, 1.0, 1e3)
    ]
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[2], steps[1])


@both_back_ends
def test_steps_hardly_depend_on_the_resolution():
    steps = [solve(problem_on(Grid(size, size), 4e-3, 1), tol=1e-6).steps.item() for size in (48, 72, 108)]
    assert steps[2] <= steps[0] + 1


@both_back_ends
def test_starts_that_are_better_are_kept():
    problem = problem_on(Grid(48, 48), 5e-3)
    exact = solve(problem, tol=1e-11).potentials
    assert (solve(problem, init=exact, tol=1e-9).steps == 0).all()
    noise = 1e-5 * problem.eps * torch.randn_like(exact.f)
    near = solve(problem, init=DualPotentials(exact.f + noise, exact.g), tol=1e-6)
    assert (near.steps <= solve(problem, tol=1e-6).steps).all()
    for bad in (torch.nan, 1e9):
        far = solve(problem, init=DualPotentials(exact.f * bad, exact.g), tol=1e-6)
        assert far.converged.all()


def test_a_batch_with_weights_that_are_none_is_solved_but_for_these():
    problem = problem_on(Grid(48, 48), 1e-2, 3)
    problem.a[1] = torch.nan
    solution = solve(Problem.trusted(problem.a, problem.b, problem.geometry, problem.eps), tol=1e-6)
    assert solution.converged.tolist() == [True, False, True]
    assert (solution.potentials.f[1] == 0).all()


def test_weights_divided_among_nodes_keep_their_mass_and_mean():
    problem = problem_on(UNEVEN, 1e-2)
    strides = [(2, 2), (4, 4), (8, 4)]
    for level in levels_of(problem, strides):
        for fine, coarse in ((problem.a, level.problem.a), (problem.b, level.problem.b)):
            assert_close(coarse.sum(-1), fine.sum(-1), 1e-12)
            means = [w @ grid.points[0].double() for w, grid in ((fine, UNEVEN), (coarse, level.problem.geometry))]
            assert_close(means[0], means[1], 1e-12)
        for axis, nodes, H in zip(UNEVEN.axes, level.nodes, level.interpolation, strict=True):
            assert_close(H @ axis[nodes], axis, 1e-12)


def test_a_correction_from_the_same_grid_finds_the_error_to_first_order():
    """With all points as nodes it is the Newton direction, up to what conjugate gradients leave."""
    problem = problem_on(Grid(12, 12), 2e-2)
    exact = solve(problem, solver=Sinkhorn(), tol=1e-12).potentials.f / problem.eps
    off = 1e-3 * torch.randn_like(exact)
    f = problem.eps * (exact + off)
    g = c_transform(problem, f)
    residual = (c_transform(problem.T, g) - f) / problem.eps
    eye = torch.eye(12, dtype=torch.float64)
    corrected, _ = Correction.of(problem, f, Interpolation((eye, eye)))(problem.a, residual)
    P = plan(problem, DualPotentials(f, g))
    A = (P @ (P.mT / problem.b[..., None])) / P.sum(-1, keepdim=True)
    left = residual - corrected + (A @ corrected[..., None])[..., 0]
    smooth = (A @ residual[..., None])[..., 0]
    size = [(problem.a * part.square()).sum(-1).sqrt() for part in (left, smooth)]
    assert (size[0] <= 0.11 * size[1]).all()
    error = corrected + off
    assert ((error - (problem.a * error).sum(-1, keepdim=True)).abs() <= 0.3 * off.abs().amax()).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_problems_of_a_batch_do_not_depend_on_each_other(threads):
    problem = problem_on(Grid(48, 48), 5e-3, 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = solve(problem, tol=1e-6)
    finally:
        torch.set_num_threads(before)
    for k in range(5):
        alone = solve(problem[k], tol=1e-6)
        assert alone.steps == together.steps[k]
        assert_close(alone.potentials.f, together.potentials.f[k], 1e-12)


def test_grids_are_coarsened_as_far_as_the_cost_has_no_detail():
    def strides(grid: Grid, eps: float) -> method.Strides:
        return list(method.coarser_grids(grid.details, eps))

    assert strides(Grid(128, 128), 1e-3) == [(2, 2), (4, 4)]
    assert strides(Grid(128, 32), 1e-2) == [(2, 2), (4, 2), (8, 2)]
    assert strides(Grid(64, 64), 1e-5) == []
    assert strides(Grid(torch.rand(64, generator=torch.Generator().manual_seed(0)), 64), 1e-2) == [(1, 2), (1, 4)]


@final
@dataclass(frozen=True)
class Astray(Transfer):
    """From a grid to itself; what comes back is off by this much."""

    off: Tensor

    def restrict(self, x: Tensor) -> Tensor:
        return x

    def prolong(self, of: Correction, mean: Tensor, found: Tensor) -> Tensor:
        return found + self.off

    def __getitem__(self, index: Tensor) -> "Astray":
        return Astray(self.off[index])


@pytest.mark.parametrize("marginals", [None, KL(0.3)])
@pytest.mark.parametrize(("far", "wasted"), [(100.0, 0), (1.0, 1), (0.015, 6)])
def test_a_correction_that_leads_astray_is_undone(marginals, far, wasted):
    """That of the second instance is not tried, or ends when the error has doubled, or after six steps."""
    problem = replace(problem_on(Grid(24, 24), 1e-2), marginals=as_marginals(marginals))
    start = solve(problem, solver=Sinkhorn(), tol=1e-2).potentials.f
    off = torch.randn_like(start) * torch.tensor([[0.0], [far]])
    good, bad = (Correction.of(problem, start, Astray(each)) for each in (0 * off, off))

    def after(steps: int, correction: Correction | None) -> Result:
        limits = Limits(0.0, steps)
        return refine(Sinkhorn(), problem, start, limits, on_support=False, correction=correction, is_lifted=True)

    assert wasted == 0 or after(wasted, bad).error[1] > after(0, bad).error[1]
    for steps in (1, 5, 20):
        undone, plain = after(wasted + steps, bad), after(steps, None)
        assert_close(undone.f[1] - undone.f[1, 0], plain.f[1] - plain.f[1, 0], 1e-9)
        assert_close(undone.error[1], plain.error[1], 1e-9)
        assert_close(undone.f[0], after(wasted + steps, good).f[0], 1e-12)
