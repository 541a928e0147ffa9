"""The value and its derivatives: closed forms, and central differences in everything that it depends on."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from strategies import (
    SPACES,
    Batch,
    assert_close,
    drift,
    given_problems,
    matrix,
    on_sphere,
    random_problem,
    temperatures,
    weights,
)
from torch import Tensor

from metaot import Dense, DualPotentials, Grid, Points, Problem, solve
from metaot.geometry import Geometry, points
from metaot.objectives import plan_cost
from metaot.tools import value as module

STEP = 1e-4

Make = Callable[..., Problem]

ot_value = partial(module.ot_value, tol=1e-9)


def close_value(problem: Problem) -> Tensor:
    """Return the value where derivatives are not wanted: its error is of second order in the solver's."""
    with torch.no_grad():
        return ot_value(problem, tol=1e-7)


def assert_derivative(make: Make, *parts: Tensor, moves: list[Tensor] | None = None) -> None:
    """Compare the derivative of make's values along `moves`, at random without, with a central difference."""
    parts = tuple(part.detach().clone().requires_grad_() for part in parts)
    moves = moves or [torch.randn_like(part) for part in parts]
    values = ot_value(make(*parts))
    toward = torch.rand_like(values)
    slopes = torch.autograd.grad((toward * values).sum(), parts)
    actual = sum((slope * move).sum() for slope, move in zip(slopes, moves, strict=True))
    ahead, behind = (
        close_value(make(*(part.detach() + t * move for part, move in zip(parts, moves, strict=True))))
        for t in (STEP, -STEP)
    )
    assert_close(actual, (toward * (ahead - behind)).sum() / (2 * STEP), 2e-6)


def turned(x: Tensor) -> Tensor:
    """Return a random direction that is tangential to the sphere."""
    direction = torch.randn_like(x)
    return direction - (direction * x).sum(-1, keepdim=True) * x


def primal_value(problem: Problem, P: Tensor) -> Tensor:
    """Return <C, P> + eps KL(P | a b^T)."""
    product = problem.a[..., :, None] * problem.b[..., None, :]
    entropy = torch.where(P > 0, P * (P / product).log(), 0.0).sum((-2, -1))
    return (matrix(problem.geometry) * P).sum((-2, -1)) + problem.eps * entropy


@given_problems(lowest_eps=0.2, examples=10)
def test_it_is_the_least_cost_with_entropy(problem):
    values = ot_value(problem)
    assert values.shape == problem.batch_shape
    assert_close(values, primal_value(problem, solve(problem, tol=1e-9).plan()), 1e-7)
    assert_close(values, ot_value(problem.T), 1e-9)


@given_problems(lowest_eps=0.2, examples=20)
def test_derivatives_in_the_weights(problem):
    """Of weights that are normalised: any change of weights that are not zero."""

    def normalised(a: Tensor, b: Tensor) -> Problem:
        a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
        return Problem(a, b, problem.geometry, problem.eps)

    sides = (problem.a, problem.b)
    assert_derivative(normalised, *sides, moves=[torch.randn_like(w) * w for w in sides])


@pytest.mark.parametrize("name", ["dense, one each", "points", "grid, callable"])
def test_derivatives_where_there_is_no_mass(name):
    """One-sided: some mass, taken from all the others, is put on an empty atom."""
    problem = random_problem(SPACES[name], (3,), temperatures((3,), 1.0, 0.2))
    for side in (problem, problem.T):
        a = side.a.clone().requires_grad_()
        (slope,) = torch.autograd.grad(ot_value(_of_weights(side, a)).sum(), a)
        empty = torch.zeros_like(side.a).index_fill(-1, torch.tensor(0), 1.0)
        assert (side.a * empty == 0).all()
        now, then, later = (
            close_value(_of_weights(side, (1 - t) * side.a + t * empty)) for t in (0, STEP, 2 * STEP)
        )
        assert_close((slope * (empty - side.a)).sum(-1), (4 * then - later - 3 * now) / (2 * STEP), 2e-6)


@pytest.mark.parametrize("name", ["dense", "points, one each", "grid"])
def test_the_constant_of_the_derivatives_is_that_of_normalised_weights(name):
    problem = random_problem(SPACES[name], (3,), 0.3)
    a, b = problem.a.clone().requires_grad_(), problem.b.clone().requires_grad_()
    start = DualPotentials(100 + torch.zeros_like(a), torch.zeros_like(b))
    values = ot_value(Problem(a, b, problem.geometry, 0.3), init=start)
    for slope, w in zip(torch.autograd.grad(values.sum(), (a, b)), (a, b), strict=True):
        assert slope.isfinite().all()
        assert_close((slope * w).sum(-1).detach(), 0.0, 1e-10)


@pytest.mark.parametrize(
    ("cost", "d"), [("sqeuclidean", 3), ("sqeuclidean", 9), ("euclidean", 3), ("sphere", 3), (drift, 3)]
)
@pytest.mark.parametrize(("lead", "batch"), [((), ()), ((), (3,)), ((2, 3), (2, 3))], ids=str)
def test_derivatives_in_the_points(cost, d: int, lead: Batch, batch: Batch):
    """Of clouds that are shared by the batch, and of one for each instance; on the sphere along tangents."""
    a, b, eps = weights(*batch, 4), weights(*batch, 5), temperatures(batch, 1.0, 0.2)
    if cost == "sphere":
        clouds = on_sphere(*lead, 4), on_sphere(*lead, 5)
        moves = [turned(x) for x in clouds]
    else:
        clouds, moves = (torch.rand(*lead, 4, d), torch.rand(*lead, 5, d)), None

    def on_clouds(x: Tensor, y: Tensor) -> Problem:
        if cost == "sphere":
            x, y = (torch.nn.functional.normalize(cloud, dim=-1) for cloud in (x, y))
        return Problem(a, b, Points(x, y, cost), eps)

    assert_derivative(on_clouds, *clouds, moves=moves)


def slopes_of(make: Callable[..., Geometry], a: Tensor, b: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    parts = tuple(part.detach().clone().requires_grad_() for part in parts)
    return torch.autograd.grad(ot_value(Problem(a, b, make(*parts), 0.2)).sum(), parts)


@pytest.mark.parametrize(("shared", "batch"), [(True, ()), (True, (3,)), (False, (2, 3))], ids=str)
def test_derivatives_in_the_cost_matrix(shared, batch):
    a, b, eps = weights(*batch, 4), weights(*batch, 5), temperatures(batch, 1.0, 0.2)
    C = torch.rand(*(() if shared else batch), 4, 5)
    assert_derivative(lambda C: Problem(a, b, Dense(C), eps), C)
    (slope,) = slopes_of(Dense, a, b, C)
    P = solve(Problem(a, b, Dense(C), 0.2), tol=1e-9).plan()
    assert_close(slope, P.sum_to_size(C.shape), 1e-8)


def test_derivatives_in_what_a_cost_function_and_axes_contain():
    a, b = weights(6), weights(6)

    def learned(theta: Tensor) -> Geometry:
        return Grid(3, 2, cost=lambda s, t: theta[0] * (s - theta[1] * t).square())

    assert_derivative(lambda theta: Problem(a, b, learned(theta), 0.2), torch.rand(2))
    assert_derivative(lambda axis: Problem(a, b, Grid(axis, 2), 0.2), torch.linspace(0, 1, 3))


def test_all_at_once():
    """What depends on one parameter through weights, points, cost and temperature."""
    a, b, x, y = torch.randn(3, 4), torch.randn(3, 5), torch.rand(3, 4, 2), torch.rand(3, 5, 2)

    def make(t: Tensor) -> Problem:
        cloud = Points(x * t, y + t, lambda x, y: t * (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1))
        return Problem((a * t).softmax(-1), (b - t * b**2).softmax(-1), cloud, 0.2 * t.expand(3))

    assert_derivative(make, torch.tensor(1.0))


def test_one_atom_on_each_side():
    """The value is the cost; the derivative of |x - y|^2 is 2 (x - y), that of |x - y| a unit vector."""
    x, y, one = torch.rand(1, 3), torch.rand(1, 3), torch.ones(1)
    for cost, expected in (("sqeuclidean", 2 * (x - y)), ("euclidean", (x - y) / (x - y).norm())):
        in_x, in_y = slopes_of(lambda x, y, cost=cost: Points(x, y, cost), one, one, x, y)
        assert_close(in_x, expected, 1e-12)
        assert_close(in_y, -expected, 1e-12)
        assert_close(ot_value(Problem(one, one, Points(x, y, cost), 0.2)), matrix(Points(x, y, cost)).sum(), 1e-12)


def test_blocks_change_nothing(monkeypatch):
    a, b, x, y = weights(2, 7), weights(2, 5), torch.rand(7, 9), torch.rand(5, 9)
    whole = slopes_of(Points, a, b, x, y)
    monkeypatch.setattr(plan_cost, "BLOCK", 2 * 5 * 2)
    for actual, expected in zip(slopes_of(Points, a, b, x, y), whole, strict=True):
        assert_close(actual, expected, 1e-12)


def test_no_matrix_is_kept_for_the_derivatives(monkeypatch):
    """What autograd holds between forward and backward is a few vectors."""
    monkeypatch.setattr(plan_cost, "BLOCK", 2**12)
    monkeypatch.setattr(points, "_KEEP", 0)
    x, held = torch.rand(300, 2, requires_grad=True), []
    problem = Problem(weights(300), weights(200), Points(x, torch.rand(200, 2)), 0.5)

    def hold(part: Tensor) -> Tensor:
        held.append(part.numel())
        return part

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda part: part):
        value = ot_value(problem)
    assert sum(held) < 10 * (300 + 200)
    value.backward()
    assert x.grad.abs().sum() > 0


def test_solvers_before_and_after_take_nothing_away():
    """The clouds are the user's own leaves, whatever has used them; and a gradient can be taken again."""
    x, y = torch.rand(4, 2, requires_grad=True), torch.rand(5, 2)
    problem = Problem(weights(4), weights(5), Points(x, y), 0.2)
    (expected,) = slopes_of(lambda x: Points(x, y), problem.a, problem.b, x)
    solve(problem)
    for _ in range(2):
        (slope,) = torch.autograd.grad(ot_value(problem), x)
        assert_close(slope, expected, 1e-12)
        solve(problem.T)


@pytest.mark.parametrize("name", ["dense", "points", "points, callable", "grid"])
def test_single_precision_has_a_value_to_its_digits(name):
    double = random_problem(SPACES[name], (3,), temperatures((3,), 1.0, 0.1))
    a = double.a.float().requires_grad_()
    like = torch.empty(0, dtype=torch.float32)
    values = ot_value(Problem(a, double.b.float(), double.geometry.to(like), double.eps))
    assert values.dtype == torch.float32
    assert_close(values.detach(), ot_value(double), 1e-6)
    values.sum().backward()
    assert a.grad.dtype == torch.float32
    moved = double.a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ot_value(_of_weights(double, moved)).sum(), moved)
    assert_close(a.grad, expected, 1e-4)


def _of_weights(problem: Problem, a: Tensor) -> Problem:
    return Problem.trusted(a, problem.b, problem.geometry, problem.eps)


def test_a_start_saves_steps_and_has_no_derivative():
    """Nor has anything else, where none is asked for."""
    problem = random_problem(SPACES["grid"], (3,), 0.1)
    solution = solve(problem, tol=1e-11)
    f = solution.potentials.f.clone().requires_grad_()
    values = ot_value(problem, init=DualPotentials(f, solution.potentials.g), max_steps=0)
    assert not values.requires_grad
    assert_close(values, solution.value, 1e-10)
    with torch.no_grad():
        assert not ot_value(_of_weights(problem, problem.a.clone().requires_grad_())).requires_grad


def test_what_has_not_converged_has_a_lower_bound():
    problem = random_problem(SPACES["grid"], (3,), 1e-3)
    a = problem.a.clone().requires_grad_()
    values = ot_value(_of_weights(problem, a), max_steps=1)
    assert (values < ot_value(problem) - 1e-6).all()
    (slope,) = torch.autograd.grad(values.sum(), a)
    assert slope.isfinite().all()


def test_second_derivatives_raise_and_are_not_zero():
    """Whichever pair of arguments they are in, also where a derivative alone would not be missed."""
    a, b, x, y = weights(4), weights(5), torch.rand(4, 2), torch.rand(5, 2)
    theta, eps = torch.tensor(1.5), torch.tensor(0.2)
    parts = [part.requires_grad_() for part in (a, b, x, y, theta, eps)]
    cloud = Points(x, y, lambda x, y: theta * (x[:, None] - y).square().sum(-1))
    slopes = torch.autograd.grad(ot_value(Problem(a, b, cloud, eps)).sum(), parts, create_graph=True)
    for slope in slopes:
        for then in parts:
            with pytest.raises(RuntimeError, match="first derivatives only"):
                torch.autograd.grad(slope.square().sum(), then, allow_unused=True, retain_graph=True)
    C = torch.rand(4, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.functional.hessian(lambda C: ot_value(Problem(a.detach(), b.detach(), Dense(C), 0.2)), C)
