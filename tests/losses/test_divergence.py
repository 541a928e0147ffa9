"""Divergences: closed forms, limits, signs, derivatives, starts, refusals; symmetric steps on both back ends."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from strategies import SPACES, assert_close, on_sphere, weights
from torch import Tensor

import metaot
from metaot import KL, TV, Dense, Grid, Newton, Points, Problem, Status, ot_value, solve
from metaot.losses import sharp_sinkhorn_divergence, sinkhorn_divergence, solve_divergence
from metaot.solvers import Symmetric

LINE = torch.linspace(-9, 10, 300, dtype=torch.float64)


def normal(mean: float, deviation: float, t: Tensor = LINE) -> Tensor:
    density = torch.exp(-((t - mean) ** 2) / (2 * deviation**2))
    return density / density.sum()


def entropic_gaussians(m: Tensor, A: Tensor, B: Tensor, eps: float) -> Tensor:
    """Return the value between N(0, A) and N(m, B) with diagonal covariances (Janati et al., arXiv 2006.02572)."""
    s, d = eps / 2, len(A)
    D = (4 * A * B + s**2).sqrt()
    return (m @ m + (A + B - D).sum() + d * s * (1 - math.log(2 * s))) + s * (D + s).log().sum()


def test_gaussians_on_the_line(back_end):
    problem = Problem(normal(0, 1), normal(1, 0.6), Grid(LINE), 0.5)
    found = solve_divergence(problem, tol=1e-9)
    assert_close(found.between.value, torch.tensor(1.6548158641655675), 1e-9)
    assert_close(found.value, torch.tensor(1.1566554611286468), 1e-9)
    assert_close(sinkhorn_divergence(problem.T, tol=1e-9), found.value, 1e-9)
    points = replace_geometry(problem, Points(LINE[:, None], LINE[:, None]))
    assert_close(sinkhorn_divergence(points, tol=1e-9), found.value, 1e-9)


def replace_geometry(problem: Problem, geometry: metaot.Geometry) -> Problem:
    return Problem(problem.a, problem.b, geometry, problem.eps)


def test_gaussians_in_three_dimensions():
    t, eps = torch.linspace(-5.5, 5.5, 27), 1.0
    axes = [(normal(0, s, t), normal(m, r, t)) for s, m, r in ((0.8, 0.3, 0.6), (0.7, -0.2, 0.9), (0.9, 0.0, 0.7))]
    a, b = (torch.einsum("i,j,k->ijk", *side).flatten() for side in zip(*axes, strict=True))
    A, B = torch.tensor([0.64, 0.49, 0.81]), torch.tensor([0.36, 0.81, 0.49])
    m, zero = torch.tensor([0.3, -0.2, 0.0]), torch.zeros(3)
    value = entropic_gaussians(m, A, B, eps)
    value = value - (entropic_gaussians(zero, A, A, eps) + entropic_gaussians(zero, B, B, eps)) / 2
    assert_close(sinkhorn_divergence(Problem(a, b, Grid(t, t, t), eps), tol=1e-8), value, 1e-5)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_limits_of_eps(cost):
    """Far above the costs it is the squared MMD of the kernel -c, far below the transport cost."""
    x, y, a, b = torch.rand(6, 2), torch.rand(7, 2), weights(6), weights(7)
    C, D, E = (Points(s, t, cost).cost_rows(slice(None)) for s, t in ((x, y), (x, x), (y, y)))
    energy = a @ C @ b - (a @ D @ a + b @ E @ b) / 2
    assert_close(sinkhorn_divergence(Problem(a, b, Points(x, y, cost), 1e5)), energy, 1e-4)
    cold = Problem(a, b, Points(x, y, cost), 1e-4)
    cost_alone = solve(cold, tol=1e-9).bounds()
    for divergence in (sinkhorn_divergence, sharp_sinkhorn_divergence):
        assert cost_alone.lower - 1e-3 <= divergence(cold) <= cost_alone.upper + 1e-6


def test_the_sharp_one_is_that_of_the_costs():
    problem = Problem(weights(2, 12), weights(2, 12), Grid(4, 3), torch.tensor([0.1, 0.5]))
    a, b = (Problem(side, side, Grid(4, 3), problem.eps) for side in (problem.a, problem.b))
    costs = [solve(part, tol=1e-9).cost() for part in (problem, a, b)]
    assert_close(sharp_sinkhorn_divergence(problem, tol=1e-9), costs[0] - (costs[1] + costs[2]) / 2, 1e-7)


@pytest.mark.parametrize("tol", [1e-2, 1e-6])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_it_is_never_negative(eps, tol):
    """Measures that are equal, or nearly so, with any tolerance; zeros among the weights."""
    a = weights(5, 40)
    b = (1 - torch.tensor([0.0, 1e-9, 1e-5, 1e-2, 1.0])[:, None]) * a
    b = b + (1 - b.sum(-1, keepdim=True)) * weights(5, 40)
    far = metaot.DualPotentials(torch.randn(5, 40), torch.zeros(5, 40))
    for geometry in (
        Grid(8, 5),
        Points(torch.rand(40, 2), None, "euclidean"),
        Points(on_sphere(40), None, "sphere"),
    ):
        for init in (None, far):
            values = sinkhorn_divergence(Problem(a, b, geometry, eps), init=init, tol=tol)
            assert bool((values >= -1e-15).all())
            assert values[0] <= eps * tol


def assert_derivative(of: Callable[..., Tensor], *parts: Tensor, step: float = 1e-4) -> None:
    """Compare derivatives along a random direction with a central difference."""
    leaves = [part.clone().requires_grad_() for part in parts]
    slopes = torch.autograd.grad(of(*leaves).sum(), leaves)
    moves = [torch.randn_like(part) for part in parts]
    actual = sum((slope * move).sum() for slope, move in zip(slopes, moves, strict=True))
    with torch.no_grad():
        ahead, behind = (
            of(*(part + sign * step * move for part, move in zip(parts, moves, strict=True))).sum()
            for sign in (1, -1)
        )
    assert_close(actual, (ahead - behind) / (2 * step), 1e-6)


@pytest.mark.parametrize("name", ["sqeuclidean", "euclidean", "function"])
def test_derivatives_in_points_weights_and_eps(name):
    cost = (lambda x, y: (x[..., :, None, :] - y[..., None, :, :]).abs().sum(-1)) if name == "function" else name
    for batch in ((), (2,)):
        x, y, u, v = (
            torch.rand(*batch, 6, 2),
            torch.rand(*batch, 5, 2),
            torch.rand(*batch, 6),
            torch.rand(*batch, 5),
        )
        eps = torch.full(batch, 0.4)

        def value(x: Tensor, y: Tensor, u: Tensor, v: Tensor, eps: Tensor) -> Tensor:
            a, b = (w / w.sum(-1, keepdim=True) for w in (u + 0.2, v + 0.2))
            return sinkhorn_divergence(Problem(a, b, Points(x, y, cost), eps), tol=1e-11)

        assert_derivative(value, x, y, u, v, eps, step=1e-5)


def test_derivatives_of_a_matrix_and_of_axes():
    C = torch.rand(4, 5)
    D, E = (Points(z).cost_rows(slice(None)) for z in (torch.rand(4, 2), torch.rand(5, 2)))
    a, b = weights(4), weights(5)
    assert_derivative(lambda C: sinkhorn_divergence(Problem(a, b, C, 0.3), self_costs=(D, E), tol=1e-11), C)
    a, b = weights(6), weights(6)
    axis = torch.tensor([0.0, 0.4, 1.0])
    assert_derivative(lambda t: sinkhorn_divergence(Problem(a, b, Grid(2, t), 0.3), tol=1e-11), axis)


def test_atoms_without_mass_have_derivatives():
    """The rate at which the value changes when they receive mass: f_ab - f_aa, less its mean."""
    a, b = torch.tensor([0.3, 0.7, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.2, 0.3])
    x = torch.rand(4, 2)
    leaf = a.clone().requires_grad_()
    problem = Problem(leaf, b, Points(x, x), 0.5)
    (slope,) = torch.autograd.grad(sinkhorn_divergence(problem, tol=1e-12), leaf)
    found = solve_divergence(problem, tol=1e-12)
    expected = found.potentials.f - found.self_potentials.f
    assert_close(slope, expected - (expected * a).sum(), 1e-9)
    for k in (2, 3):
        step = 1e-7
        moved = (1 - step) * a
        moved[k] += step
        with torch.no_grad():
            change = sinkhorn_divergence(Problem(moved, b, Points(x, x), 0.5), tol=1e-12) - sinkhorn_divergence(
                problem, tol=1e-12
            )
        assert_close(slope[k], change / step, 1e-5)


def test_second_derivatives_are_refused():
    x = torch.rand(4, 2, requires_grad=True)
    problem = Problem(weights(4), weights(5), Points(x, torch.rand(5, 2)), 0.5)
    (slope,) = torch.autograd.grad(sinkhorn_divergence(problem), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        slope.sum().backward()


def test_single_precision_and_the_units_of_the_value():
    x = torch.rand(5, 2, dtype=torch.float32, requires_grad=True)
    w = torch.full((5,), 0.2, dtype=torch.float32)
    value = sinkhorn_divergence(Problem(w, w, Points(x, x.detach() + 1), 0.1))
    assert value.dtype == torch.float32
    assert_close(value.double(), torch.tensor(2.0), 1e-5)
    value.backward()
    assert x.grad is not None
    assert_close(x.grad.double(), torch.full((5, 2), -0.4), 1e-5)


def test_a_solution_is_the_next_start(back_end):
    problem = Problem(weights(3, 30), weights(3, 30), Grid(6, 5), 0.02)
    first = solve_divergence(problem, tol=1e-8)
    assert bool(first.converged.all())
    assert first.status is Status.CONVERGED
    assert "3 converged" in repr(first)
    again = solve_divergence(problem, init=first, tol=1e-6)
    assert int(again.steps.sum() + again.self_steps.sum()) == 0
    assert_close(again.value, first.value, 1e-10)
    assert int(solve(problem, init=first, tol=1e-6).steps.sum()) == 0
    with pytest.raises(ValueError, match="shape"):
        solve_divergence(Problem(weights(3, 20), weights(3, 20), Grid(4, 5), 0.02), init=first)


def test_not_converging_is_a_result():
    found = solve_divergence(Problem(weights(30), weights(30), Grid(6, 5), 1e-3), tol=1e-9, max_steps=1)
    assert not bool(found.converged)
    assert found.status is Status.MAX_STEPS


def test_a_matrix_needs_the_costs_of_each_side():
    x, y, a, b = torch.rand(4, 2), torch.rand(5, 2), weights(4), weights(5)
    C, D, E = (Points(s, t).cost_rows(slice(None)) for s, t in ((x, y), (x, x), (y, y)))
    problem = Problem(a, b, C, 0.2)
    with pytest.raises(ValueError, match="self_costs="):
        sinkhorn_divergence(problem)
    expected = sinkhorn_divergence(Problem(a, b, Points(x, y), 0.2))
    assert_close(sinkhorn_divergence(problem, self_costs=(D, E)), expected, 1e-9)
    one = Problem(a, weights(4), Dense(D), 0.2)
    expected = sinkhorn_divergence(Problem(a, one.b, Points(x, x), 0.2))
    assert_close(sinkhorn_divergence(one), expected, 1e-9)
    with pytest.raises(ValueError, match="C_yy"):
        sinkhorn_divergence(problem, self_costs=(D, D))
    with pytest.raises(ValueError, match="symmetric costs"):
        sinkhorn_divergence(problem, self_costs=(torch.rand(4, 4), E))
    with pytest.raises(TypeError, match=r"self_costs must be a pair .*, got a Tensor"):
        sinkhorn_divergence(problem, self_costs=D)
    with pytest.raises(TypeError, match=r"C_yy in self_costs must be numbers .*, got None"):
        sinkhorn_divergence(problem, self_costs=(D, None))
    for solver in ("newton", Newton):
        with pytest.raises(TypeError, match="solver must be None or a Solver"):
            sinkhorn_divergence(problem, self_costs=(D, E), solver=solver)


NAMED = [name for name in SPACES if "dense" not in name and "callable" not in name]


@pytest.mark.parametrize("space", NAMED)
@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_symmetric_steps(space, eps, back_end):
    """Both sides share the potential; the value is that of any other solver, in few steps."""
    sides = SPACES[space]((2,)).of_each_side
    assert sides is not None
    geometry = sides[0]
    a = weights(2, geometry.shape[0])
    problem = Problem(a, a, geometry, eps)
    solution = solve(problem, solver=Symmetric(), tol=1e-7)
    assert bool(solution.converged.all())
    assert int(solution.steps.max()) <= 30
    assert_close(solution.potentials.f, solution.potentials.g, 1e-5)
    assert_close(solution.value, solve(problem, tol=1e-9).value, 1e-8)
    assert int(solve(problem, init=solution, solver=Symmetric(), tol=1e-7).steps.max()) == 0


def test_back_ends_make_the_same_symmetric_steps(monkeypatch):
    a = weights(3, 60)
    for geometry in (Grid(10, 6), Points(torch.rand(60, 3))):
        problem = Problem(a, a, geometry, torch.tensor([1e-3, 1e-2, 0.3]))
        compiled = solve(problem, solver=Symmetric(), tol=1e-8)
        with monkeypatch.context() as patch:
            patch.setattr("metaot.core.COMPILED", False)
            by_torch = solve(problem, solver=Symmetric(), tol=1e-8)
        assert torch.equal(compiled.steps, by_torch.steps)
        assert_close(compiled.potentials.f, by_torch.potentials.f, 1e-10)
        assert_close(compiled.potentials.g, by_torch.potentials.g, 1e-10)


def test_symmetric_steps_are_for_a_measure_and_itself():
    a, b = weights(4), weights(4)
    with pytest.raises(ValueError, match="different weights"):
        solve(Problem(a, b, Grid(4), 0.1), solver=Symmetric())
    with pytest.raises(ValueError, match="different sizes"):
        solve(Problem(a, weights(5), torch.rand(4, 5), 0.1), solver=Symmetric())
    with pytest.raises(ValueError, match="symmetric costs"):
        solve(Problem(a, a, torch.rand(4, 4), 0.1), solver=Symmetric())


def test_large_clouds_in_blocks():
    """Beyond the matrices that fit into a cache the kernel is made anew by each step."""
    x = torch.rand(2100, 2)
    a = weights(2100)
    problem = Problem(a, a, Points(x), 0.01)
    solution = solve(problem, solver=Symmetric(), tol=1e-5)
    assert bool(solution.converged)
    assert_close(
        metaot.potentials.source_marginal(problem, replace(solution.potentials, g=solution.potentials.f)), a, 1e-7
    )


def test_a_half_of_the_value_of_equal_measures_is_taken_away_twice():
    a = weights(20)
    problem = Problem(a, a, Grid(5, 4), 0.2)
    assert float(ot_value(problem)) > 1e-2
    assert 0 <= float(sinkhorn_divergence(problem)) < 1e-12


def test_unbalanced_diracs(back_end):
    """The mass p of the plan minimises p c + eps KL(p | m n) + rho (KL(p | m) + KL(p | n))."""
    m, n, c = torch.tensor([1.3, 0.2]), torch.tensor([0.4, 0.2]), torch.tensor([0.25, 0.0])
    eps, rho = torch.tensor([0.1, 0.3]), torch.tensor([0.5, 0.2])

    def value(m: Tensor, n: Tensor, c: Tensor | float) -> Tensor:
        p = ((rho + eps) * (m * n).log() - c).div(2 * rho + eps).exp()
        return rho * (m + n) + eps * m * n - (2 * rho + eps) * p

    x, y = torch.zeros(2, 1, 1), c.sqrt()[:, None, None]
    found = sinkhorn_divergence(Problem(m[:, None], n[:, None], Points(x, y), eps, KL(rho)), tol=1e-10)
    expected = value(m, n, c) - (value(m, m, 0.0) + value(n, n, 0.0)) / 2 + eps / 2 * (m - n) ** 2
    assert_close(found, expected, 1e-9)
    assert abs(found[1]) < 1e-15


PRICES = pytest.mark.parametrize("price", [KL, TV])


@PRICES
@pytest.mark.parametrize("tol", [1e-2, 1e-7])
def test_unbalanced_divergences_are_zero_for_equal_measures_and_not_negative(price, tol):
    a = weights(6, 20) * torch.rand(6, 1)
    share = torch.tensor([0.0, 1e-9, 1e-5, 1e-2, 0.3, 1.0])[:, None]
    b = (1 - share) * a + share * weights(6, 20) * torch.rand(6, 1)
    for geometry in (Grid(5, 4), Points(torch.rand(20, 2), None, "euclidean")):
        for eps in (1e-2, 1.0):
            values = sinkhorn_divergence(Problem(a, b, geometry, eps, price(torch.rand(6) + 0.05)), tol=tol)
            assert bool((values >= -1e-15).all())
            assert values[0] <= eps * tol
            assert values[-1] > 1e-3


@PRICES
def test_a_high_price_is_balanced(price):
    a, b, space = weights(2, 12), weights(2, 12), Grid(4, 3)
    problem, priced = Problem(a, b, space, 0.1), Problem(a, b, space, 0.1, price(10.0 if price is TV else 1e7))
    assert_close(sinkhorn_divergence(priced, tol=1e-9), sinkhorn_divergence(problem, tol=1e-9), 1e-6)
    assert_close(sharp_sinkhorn_divergence(priced, tol=1e-9), sharp_sinkhorn_divergence(problem, tol=1e-9), 1e-6)


@PRICES
def test_derivatives_of_unbalanced_divergences(price):
    def value(x: Tensor, y: Tensor, a: Tensor, b: Tensor, eps: Tensor) -> Tensor:
        return sinkhorn_divergence(Problem(a, b, Points(x, y), eps, price(0.25)), tol=1e-12)

    parts = torch.rand(6, 2), torch.rand(5, 2), torch.rand(6) + 0.1, torch.rand(5) + 0.1, torch.tensor(0.3)
    assert_derivative(value, *parts, step=1e-6)


def test_the_sharp_one_has_the_price_of_the_marginals():
    """Far below the costs: a half of the second atom's mass is worth less than its way."""
    problem = Problem([0.4, 0.6], [0.4, 0.3], Points([[0.0], [5.0]], [[0.1], [5.0]]), 1e-3, TV(0.2))
    assert_close(sharp_sinkhorn_divergence(problem), torch.tensor(0.4 * 0.01 + 0.3 * 0.2), 1e-3)


@PRICES
def test_back_ends_agree_on_unbalanced_measures_to_themselves(price, monkeypatch):
    a = 1.7 * weights(3, 30)
    for geometry in (Grid(6, 5), Points(torch.rand(30, 3))):
        problem = Problem(a, a, geometry, torch.tensor([1e-3, 1e-2, 0.3]), price(0.2))
        compiled = solve(problem, solver=Symmetric(), tol=1e-8)
        assert_close(compiled.value, solve(problem, tol=1e-9).value, 1e-8)
        with monkeypatch.context() as patch:
            patch.setattr("metaot.core.COMPILED", False)
            by_torch = solve(problem, solver=Symmetric(), tol=1e-8)
        assert torch.equal(compiled.steps, by_torch.steps)
        assert_close(compiled.potentials.f, by_torch.potentials.f, 1e-9)
        assert_close(compiled.potentials.g, by_torch.potentials.g, 1e-9)


@pytest.mark.parametrize("divergence", [sinkhorn_divergence, sharp_sinkhorn_divergence, solve_divergence])
def test_both_sides_have_one_price(divergence):
    for prices in ((None, KL(1.0)), (KL(1.0), KL(2.0)), (KL(1.0), TV(1.0))):
        problem = Problem([0.5, 0.5], [0.4, 0.6], Grid(2), 0.1, prices)
        with pytest.raises(ValueError, match="takes one price for the marginals of both sides, got"):
            divergence(problem)
    with pytest.raises(ValueError, match="one price for both marginals"):
        solve(Problem([0.5, 0.5], [0.5, 0.5], Grid(2), 0.1, (KL(1.0), TV(1.0))), solver=Symmetric())


def test_problems_in_a_batch_of_two_dimensions_are_solved_as_one_by_one():
    a = torch.rand(2, 3, 16, dtype=torch.float64)
    a = a / a.sum(-1, keepdim=True)
    b = a.flip(0).roll(1, -1)
    space, eps = metaot.Grid(4, 4), torch.full((2, 3), 0.05, dtype=torch.float64)
    eps[1] = 0.2
    whole = solve_divergence(metaot.Problem(a, b, space, eps), tol=1e-9)
    for k in ((0, 1), (1, 2)):
        alone = solve_divergence(metaot.Problem(a[k], b[k], space, float(eps[k])), tol=1e-9)
        assert torch.isclose(whole.value[k], alone.value, rtol=0, atol=1e-12)
        assert torch.allclose(whole.self_potentials.g[k], alone.self_potentials.g, rtol=0, atol=1e-9)
