"""Compiled code and torch are the same algorithm: the same potentials, errors and steps from every start."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from strategies import SPACES, assert_close, both_back_ends, every_dtype, random_problem
from torch import Tensor

import metaot
from metaot import core
from metaot.geometry import Dense, Geometry, Grid, Points
from metaot.potentials import DualPotentials, marginal_error, plan
from metaot.problem import Problem
from metaot.solvers import Newton, Sinkhorn, Solution, Solver, solve

LARGER: dict[str, Callable[[tuple[int, ...]], Geometry]] = {
    "large dense": lambda batch: Dense(torch.rand(40, 30)),
    "large line": lambda batch: Grid(30),
    "large grid": lambda batch: Grid(7, 8),
    "large block": lambda batch: Grid(4, 3, 5),
    "large points": lambda batch: Points(torch.rand(30, 2), torch.rand(35, 2)),
    "large euclidean": lambda batch: Points(torch.rand(30, 3), torch.rand(25, 3), "euclidean"),
}
CASES = [
    *((name, 0.1, 1e-6) for name in SPACES),
    *((name, *limits) for name in LARGER for limits in ((0.1, 1e-6), (0.01, 1e-3))),
]
METHODS: dict[str, Solver | None] = {
    "accelerated": Sinkhorn(),
    "plain": Sinkhorn(accelerated=False),
    "newton": Newton(),
    "chosen": None,
}
STARTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "none": lambda f: None,
    "good": lambda f: f + 1e-3 * torch.randn_like(f),
    "fair": lambda f: f + 0.3 * torch.randn_like(f),
    "bad": lambda f: f + 10 * torch.randn_like(f),
    "huge": lambda f: 1e6 * torch.randn_like(f),
    "nan": lambda f: f * math.nan,
}
"""Potentials in units of eps, from the exact ones."""


needs_both = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


def by_torch(*arguments: object, **settings: object) -> Solution:
    """Solve as where there was no compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "COMPILED", False)
        return solve(*arguments, **settings)  # type: ignore[call-overload]


def assert_same(problem: Problem, init: DualPotentials | None, solver: Solver | None, tol: float) -> None:
    """Solve by both, and compare: steps to one or five per cent, all else to what the tolerance leaves."""
    for max_steps in (3, 100 if solver == METHODS["plain"] else 1000):
        settings = {"init": init, "solver": solver, "tol": tol, "max_steps": max_steps}
        compiled, torch_ = solve(problem, **settings), by_torch(problem, **settings)
        assert compiled.solvers == torch_.solvers
        assert compiled.status is torch_.status
        assert torch.equal(compiled.converged, torch_.converged)
        steps = torch.stack([compiled.steps, torch_.steps]).double()
        assert (steps[0] - steps[1]).abs().le(steps.amax(0).mul(0.05).clamp_min(1)).all(), steps
        if max_steps == 3:
            assert_close(compiled.error, torch_.error, 1e-6)
        assert_close(compiled.plan(), torch_.plan(), 20 * tol)
        assert_close(compiled.value, torch_.value, 20 * tol)


def starts(problem: Problem, names: Iterable[str]) -> Iterator[DualPotentials | None]:
    """Yield starts that are made of the exact potentials."""
    exact = solve(problem, solver=Newton(), tol=1e-10).potentials.f
    for name in names:
        torch.default_generator.manual_seed(3)
        f = STARTS[name](exact / problem.eps)
        yield None if f is None else DualPotentials(problem.eps * f, torch.zeros_like(problem.b))


@needs_both
@pytest.mark.parametrize(("name", "eps", "tol"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_they_are_the_same_algorithm(name, eps, tol, method):
    problem = random_problem({**SPACES, **LARGER}[name], (3,), eps, seed=1)
    every = name in LARGER and eps == 0.1 and method in ("accelerated", "newton")
    for init in starts(problem, STARTS if every else ("none", "fair", "nan")):
        assert_same(problem, init, METHODS[method], tol)


@needs_both
@pytest.mark.parametrize("name", LARGER)
@pytest.mark.parametrize("method", ["accelerated", "newton"])
def test_they_are_the_same_at_a_small_eps(name, method):
    """From near the solution; from afar nearly singular systems are solved, and rounding decides."""
    problem = random_problem(LARGER[name], (3,), 1e-3, seed=1)
    for init in starts(problem, ("good", "fair")):
        assert_same(problem, init, METHODS[method], 0.03)


@needs_both
@pytest.mark.parametrize("name", ["grid", "dense", "dense, one each", "large points", "large grid"])
@pytest.mark.parametrize("method", ["accelerated", "newton"])
@pytest.mark.parametrize("eps", [0.5, 0.05, 1e-3])
def test_they_keep_the_same_starts(eps, name, method):
    """Whatever the mean of a start is, on all sides of the bounds from which on it must be better than zeros."""
    problem = random_problem({**SPACES, **LARGER}[name], (8,), eps)
    exact = solve(problem, solver=Newton(), tol=1e-9).potentials.f
    for noise in (1e-3, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0):
        init = DualPotentials(exact + 3 + noise * eps * torch.randn_like(exact), torch.zeros_like(problem.b))
        limits = {"init": init, "solver": METHODS[method], "max_steps": 0}
        assert_close(by_torch(problem, **limits).error, solve(problem, **limits).error, 1e-9)


@needs_both
@pytest.mark.parametrize("method", METHODS)
def test_they_leave_out_the_same_masses(method):
    problem = random_problem(SPACES["grid"], (3,), 0.05)
    tiny = 10.0 ** -torch.arange(15.0, 327.0, 26.0)
    a, b = problem.a + tiny, problem.b + tiny.flip(0)
    assert_same(Problem(a, b, problem.geometry, 0.05), None, METHODS[method], 1e-6)


def bell(grid: Grid, width: float, *middle: float) -> Tensor:
    """Return the weights of a normal density on a grid."""
    density = (-(grid.points[0].double() - torch.tensor(middle)).square().sum(-1) / (2 * width**2)).exp()
    return density / density.sum()


LINE, SQUARE = (Grid(*(torch.linspace(0, 1, size).double() for size in sizes)) for sizes in ((200,), (48, 48)))
BELLS = {
    "line": (Problem(bell(LINE, 2 / 199, 20 / 199), bell(LINE, 2 / 199, 80 / 199), LINE, 1e-4), 0.0909507, 50),
    "square": (Problem(bell(SQUARE, 0.015, 0.25, 0.3), bell(SQUARE, 0.02, 0.7, 0.75), SQUARE, 1e-3), 0.405685, 10),
}
"""The costs were found by other programs."""


@both_back_ends
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("problem", "cost", "steps"), BELLS.values(), ids=BELLS)
def test_bells_whose_tails_are_below_floating_point(problem, cost, steps, method, batch):
    problem = replace(problem, a=problem.a.expand(*batch, -1), b=problem.b.expand(*batch, -1))
    solution = solve(problem, solver=METHODS[method], max_steps=2000)
    assert solution.converged.all()
    assert_close(solution.cost(), cost, 1e-6)
    assert (solution.steps <= (6 * steps if method == "plain" else steps)).all()


@both_back_ends
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [1e-5, 3e-5])
def test_plain_steps_at_a_tiny_eps_are_numbers(seed, eps):
    torch.default_generator.manual_seed(seed)
    geometry = Points(torch.rand(30, 2), torch.rand(30, 2), "euclidean")
    a, b = (w / w.sum() for w in torch.rand(2, 30))
    solution = solve(Problem(a, b, geometry, eps), solver=METHODS["plain"], max_steps=100)
    assert_close(solution.error, marginal_error(solution.problem, solution.potentials), 1e-8)
    assert solution.potentials.f.isfinite().all()
    assert solution.value.isfinite()
    assert 0 < solution.cost() < 1


@both_back_ends
@every_dtype
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", [1.0, 1e4, 3e8])
def test_a_cost_of_billions_of_eps_is_no_infinity(dtype, method, side):
    """In float32 the potentials have no digits for the plan, which is told."""
    generator = torch.Generator().manual_seed(0)
    C = side * torch.rand(3, 4, generator=generator, dtype=torch.float64)
    a, b = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    problem = Problem(a.to(dtype), b.to(dtype), Dense(C.to(dtype)), 0.1)
    solution = solve(problem, solver=METHODS[method], max_steps=30)
    assert solution.potentials.f.isfinite().all()
    assert solution.potentials.g.isfinite().all()
    assert not solution.error <= 1e-6 or plan(problem, solution.potentials).sum(-1).allclose(problem.a)
    assert solution.error <= 2.01 or dtype == torch.float32
    assert plan(problem, solution.potentials).isfinite().all()


EXAMPLES = {
    "both": (
        [(3, 17, 7), (18, 0, 1), (18, 9, 3), (20, 23, 2), (25, 14, 4)],
        [(1, 16, 9), (13, 24, 1), (22, 26, 1), (27, 7, 5), (27, 11, 2)],
    ),
    "from a model": (
        [(1, 15, 4), (2, 9, 3), (3, 18, 7), (7, 21, 1), (21, 27, 4)],
        [(0, 5, 2), (4, 26, 9), (6, 13, 7), (20, 12, 1), (23, 6, 4)],
    ),
}


def few_atoms(rows: list[tuple[int, int, int]]) -> Tensor:
    """Return weights on a 28 x 28 grid from rows, columns and weights."""
    w = torch.zeros(28, 28)
    for i, j, weight in rows:
        w[i, j] = weight
    return w.reshape(-1) / w.sum()


@both_back_ends
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("tol", [1e-3, 1e-8])
def test_few_atoms_take_few_steps_and_a_model_makes_them_no_worse(example, tol):
    """Also few atoms on one side only, in a batch with others."""
    source, target = map(few_atoms, example)
    many = torch.rand(784).pow(2)
    many = many / many.sum()
    a, b = torch.stack([source, source, many]), torch.stack([target, many, target])
    for problem in (Problem(source, target, Grid(28, 28), 0.01), Problem(a, b, Grid(28, 28), 0.01)):
        cold = solve(problem, tol=tol)
        assert cold.converged.all()
        assert cold.steps.max() <= 12
        assert cold.solvers == (Newton(),)
    cold, warm = solve(problem[0], tol=tol), solve(problem[0], init=metaot.load("universal"), tol=tol)
    assert warm.converged
    assert warm.steps <= cold.steps + 1
    assert_close(warm.cost(), cold.cost(), 10 * tol)
