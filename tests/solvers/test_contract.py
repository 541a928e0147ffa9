"""`solver=` takes a solver, the user's own too, and runs exactly that one on every path; all else is an error."""

from dataclasses import dataclass, field

import pytest
import torch
from strategies import assert_close, both_back_ends, unchecked, weights
from torch import Tensor

import metaot
from metaot import Dense, DualPotentials, Geometry, Grid, Points, Problem, SampleProblem
from metaot.potentials import c_transform, marginal_error


@dataclass(frozen=True)
class Damped(metaot.Solver):
    """Sinkhorn's method with half of each step, written as a user would; it counts its steps."""

    part: float = 0.5
    sizes: list[int] = field(default_factory=list)

    def init(self, problem: Problem, guess: DualPotentials | None) -> DualPotentials:
        f = torch.zeros_like(problem.a) if guess is None else guess.f
        return DualPotentials.from_f(problem, f)

    def step(self, problem: Problem, state: DualPotentials) -> DualPotentials:
        self.sizes.append(len(problem.a))
        f = torch.lerp(state.f, c_transform(problem.T, state.g), self.part)
        return DualPotentials.from_f(problem, f)

    def adjust(self, problem: Problem, state: DualPotentials, error: Tensor) -> DualPotentials:
        return state

    def error(self, problem: Problem, state: DualPotentials) -> Tensor:
        return marginal_error(problem, state)

    def value(self, problem: Problem, state: DualPotentials, which: Tensor | slice) -> DualPotentials:
        return state[which]


DRAW = torch.Generator().manual_seed(0)
SPACES: dict[str, Geometry] = {
    "small grid": Grid(4, 5),
    "large grid": Grid(150, 140),
    "line": Grid(30),
    "points": Points(*(torch.rand(size, 2, generator=DRAW).double() for size in (40, 30))),
    "sphere": Points(
        *(torch.nn.functional.normalize(torch.randn(2, 20, 3, generator=DRAW).double(), dim=-1)), "sphere"
    ),
    "dense": Dense(torch.rand(17, 12, generator=DRAW).double()),
}


@both_back_ends
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_users_own_solver_is_run(name, dtype):
    n, m = SPACES[name].shape
    problem = Problem(weights(2, n), weights(2, m), SPACES[name], torch.tensor([0.5, 1.0]))
    problem = problem.to(torch.empty(0, dtype=dtype))
    solver = Damped()
    solution = metaot.solve(problem, solver=solver, tol=1e-3, max_steps=50)
    assert solution.solvers == (solver,)
    assert solution.converged.all()
    assert len(solver.sizes) == solution.steps.max() > 1
    assert sum(solver.sizes) >= solution.steps.sum()
    assert_close(solution.error, marginal_error(problem, solution.potentials), 1e-5)
    assert_close(solution.value, metaot.solve(problem, tol=1e-4).value, 2e-3)


@both_back_ends
@pytest.mark.parametrize("max_steps", [0, 1, 4])
def test_its_budget_is_kept_a_start_is_used_and_no_nan_comes_out(max_steps):
    problem = Problem(weights(12), weights(12), Grid(3, 4), 0.2)
    solver = Damped()
    solution = metaot.solve(problem, solver=solver, tol=1e-12, max_steps=max_steps)
    assert solution.steps == len(solver.sizes) == max_steps
    exact = metaot.solve(problem, tol=1e-9)
    assert metaot.solve(problem, solver=Damped(), init=exact.potentials, tol=1e-7).steps == 0
    halves = metaot.solve(problem, solver=Damped(), tol=1e-6)
    whole = metaot.solve(problem, solver=Damped(1.0), tol=1e-6)
    assert whole.steps < halves.steps

    broken = metaot.solve(problem, solver=Damped(torch.nan), max_steps=5)
    assert broken.potentials.f.isfinite().all()
    assert broken.potentials.g.isfinite().all()
    assert not broken.converged


NEITHER = ["newton", metaot.Newton, metaot.Solver, metaot.W2GN, 42, metaot.solve]
MAPS = [metaot.GaussNewton(), metaot.W2GN()]
DISCRETE = [metaot.Sinkhorn(), metaot.Newton(), Damped()]


def test_all_else_is_an_error_that_names_what_is_taken():
    discrete = Problem(weights(4), weights(4), Grid(4), 0.1)
    samples = SampleProblem(torch.rand(30, 2), torch.rand(30, 2))
    message = r"None or a Solver of discrete problems, such as metaot\.Sinkhorn\(\) or metaot\.Newton\(\), got "
    of_maps = r"W2GN\(\.\.\.\) or GaussNewton\(\.\.\.\).* got "
    for problem, wrong, expected in ((discrete, MAPS, message), (samples, DISCRETE, of_maps)):
        for solver in (*NEITHER, *wrong):
            with unchecked(), pytest.raises(TypeError, match=expected):
                metaot.solve(problem, solver=solver)
