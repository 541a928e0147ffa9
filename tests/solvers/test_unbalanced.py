"""Unbalanced transport: closed forms, optimality by definition, agreement of methods and spaces, bad input."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import metaot
from metaot import KL, TV, Dense, DualPotentials, Grid, Newton, Points, Problem, Sinkhorn, core, solve
from metaot.core import method
from metaot.marginals import BALANCED, Marginal
from metaot.objectives import dual_loss, dual_value
from metaot.potentials import marginal_error
from metaot.solvers import newton
from metaot.solvers.hand_over import HandOver
from metaot.solvers.in_torch import InTorch
from metaot.solvers.local import changes_from

PRICES = {
    "KL": (KL(0.3), KL(0.3)),
    "KL, two prices": (KL(0.1), KL(2.0)),
    "source balanced": (None, KL(0.3)),
    "target balanced": (KL(0.3), None),
    "TV": (TV(0.2), TV(0.2)),
    "TV, source balanced": (None, TV(0.1)),
    "TV and KL": (TV(0.2), KL(0.4)),
}
FIRST_ORDER = [None, Sinkhorn(accelerated=False)]


def weights(generator: torch.Generator, *shape: int, mass: float = 1.0) -> torch.Tensor:
    w = torch.rand(shape, generator=generator) ** 3
    w[..., 1] = 0
    return mass * w / w.sum(-1, keepdim=True)


def relaxed(prices: tuple[Any, Any], geometry: Any, eps: Any, batch: tuple[int, ...] = ()) -> Problem:
    """Return a problem with masses 0.7 and 1.2, or one where they must be one."""
    generator, (n, m) = torch.Generator().manual_seed(1), geometry.shape
    masses = [1.0 if side is None else mass for side, mass in zip(prices, (0.7, 1.2), strict=True)]
    a, b = (weights(generator, *batch, k, mass=mass) for k, mass in zip((n, m), masses, strict=True))
    return Problem(a, b, geometry, eps, prices)


def clouds(n: int = 12, m: int = 9) -> Points:
    generator = torch.Generator().manual_seed(2)
    return Points(torch.rand(n, 2, generator=generator), torch.rand(m, 2, generator=generator))


def primal_value(problem: Problem, P: torch.Tensor) -> float:
    """Return <C, P> + eps KL(P | a b^T) + the prices of the marginals, term by term."""
    C, reference = problem.geometry.cost_rows(slice(None)), problem.a[:, None] * problem.b
    value = float((C * P).sum() + problem.eps * generalised_kl(P, reference))
    for side, weight, marginal in (
        (problem.marginals.source, problem.a, P.sum(1)),
        (problem.marginals.target, problem.b, P.sum(0)),
    ):
        if isinstance(side, KL):
            value += float(side.rho * generalised_kl(marginal, weight))
        elif isinstance(side, TV):
            value += float(side.rho * (marginal - weight).abs().sum())
    return value


def generalised_kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    q = torch.where(q > 0, q, 1.0)
    return (torch.xlogy(p, p / q) - p + torch.where(p > 0, q, 0.0)).sum()


@pytest.mark.parametrize("solver", [None, Sinkhorn(accelerated=False), Newton()])
def test_gaussians_have_the_closed_form(solver):
    """Janati et al., arXiv 2006.02572, N(0, 1) and 0.7 N(1, 0.36), discretised finely."""
    x = torch.linspace(-7, 8, 151)[:, None]
    a, b = (torch.exp(-((x[:, 0] - mean) ** 2) / (2 * variance)) for mean, variance in ((0, 1), (1, 0.36)))
    problem = Problem(a / a.sum(), 0.7 * b / b.sum(), Points(x, x), 0.5, KL(1.3))
    solution = solve(problem, solver=solver, tol=1e-11)
    assert solution.converged
    assert abs(solution.mass() - 0.596526322496691) < 1e-9
    assert abs(solution.value - 0.710768400260258) < 1e-9
    assert 0 <= solution.gap() + 1e-14 < 1e-12


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
@pytest.mark.parametrize("solver", FIRST_ORDER)
def test_the_plan_is_optimal(prices, solver):
    """The dual value is that of the plan by definition, and no potentials near have a higher one."""
    problem = relaxed(prices, clouds(), 0.05)
    solution = solve(problem, solver=solver, tol=1e-10)
    assert solution.converged
    value, P = float(solution.value), solution.plan()
    assert abs(primal_value(problem, P) - value) < 1e-9
    assert abs(float(solution.gap())) < 1e-9
    assert torch.allclose(solution.mass(), P.sum())
    generator = torch.Generator().manual_seed(3)
    f, g = solution.potentials.f, solution.potentials.g
    for size in (1e-3, 1e-1):
        moves = [size * torch.randn(z.shape, generator=generator) for z in (f, g)]
        assert dual_value(problem, DualPotentials(f + moves[0], g + moves[1])) <= value + 1e-12


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_the_error_is_its_definition(prices):
    problem = relaxed(prices, clouds(), 0.05)
    solution = solve(problem, max_steps=1, tol=1e-14)
    P, f, g = solution.plan(), solution.potentials.f, solution.potentials.g
    error = side_error(problem.marginals.source, problem.a, f, P.sum(1), problem.eps)
    error += side_error(problem.marginals.target, problem.b, g, P.sum(0), problem.eps)
    torch.testing.assert_close(solution.error, error / P.sum(), rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(
        marginal_error(problem, solution.potentials), error / P.sum(), rtol=1e-9, atol=1e-13
    )


def side_error(side: Marginal, weight: torch.Tensor, f: torch.Tensor, marginal: torch.Tensor, eps: Any) -> Any:
    if isinstance(side, KL):
        return (marginal - weight * torch.exp(-f / side.rho)).abs().sum()
    excess, lack = (marginal - weight).clamp_min(0), (weight - marginal).clamp_min(0)
    if not isinstance(side, TV):
        return (lack + excess).sum()
    return (((side.rho - f) / eps).clamp(0, 1) * lack + ((side.rho + f) / eps).clamp(0, 1) * excess).sum()


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
@pytest.mark.parametrize("by", ["factors", "products"])
def test_newton_agrees(prices, by, monkeypatch):
    """With bounds too, which hold potentials of either side."""
    if by == "products":
        monkeypatch.setattr(newton, "FACTORISED", 0)
    problem = relaxed(prices, clouds(), 0.02)
    first, second = solve(problem, solver=Sinkhorn(), tol=1e-11), solve(problem, solver=Newton(), tol=1e-11)
    assert second.converged
    assert second.steps < first.steps
    for side, potential in zip(prices, (second.potentials.f, second.potentials.g), strict=True):
        assert not isinstance(side, TV) or potential.abs().max() <= side.rho + 1e-14
    torch.testing.assert_close(first.value, second.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.plan(), second.plan(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [KL(3.0), TV(1.5), BALANCED.source], ids=str)
def test_what_changes_are_worth_is_the_difference_of_the_dual_value(side):
    """Newton's steps are as long as this says, however far S is beyond the bounds, before and after."""
    S = torch.linspace(-4, 4, 9)[None]
    change = torch.linspace(-6, 6, 13)[None, :, None].expand(1, 13, 9).mT

    def value(S: torch.Tensor) -> torch.Tensor:
        g = side.best(S, 1.0)
        return side.worth(g) - (g - S).exp()

    def row(S: torch.Tensor) -> torch.Tensor:
        return torch.stack([value(S[..., k]) for k in range(S.shape[-1])], -1)

    arriving = (side.best(S, 1.0) - S).exp()[..., None]
    changes = changes_from(side, S, more=1.0)
    torch.testing.assert_close(
        arriving * changes.worth_of_best(change), row(S[..., None] + change) - value(S)[..., None]
    )
    moved = changes.followed(change[..., 3])
    torch.testing.assert_close(moved, side.best(S + change[..., 3], 1.0) - side.best(S, 1.0))


def nearly_equal(eps: float) -> Problem:
    """Return measures on 20 atoms that differ by little, between which parts of the plan hardly touch."""
    generator = torch.Generator().manual_seed(3)
    a, c = (weights(generator, 4, 20) * torch.rand(4, 1, generator=generator) for _ in range(2))
    share = torch.tensor([0.0, 1e-9, 1e-5, 1e-2])[:, None]
    space = Points(torch.rand(20, 2, generator=generator), None, "euclidean")
    prices = TV(torch.rand(4, generator=generator) + 0.05)
    return Problem(a, (1 - share) * a + share * c, space, eps, prices)


@pytest.mark.parametrize("eps", [1e-2, 1e-3])
def test_nearly_equal_measures_are_solved_where_bounds_hold(eps):
    """Sinkhorn's steps alone would take tens of thousands; the gap certifies the result."""
    problem = nearly_equal(eps)
    rho = problem.marginals.source.rho
    assert not solve(problem, solver=Sinkhorn(), max_steps=1000).converged.all()
    for solver in (None, Newton()):
        solution = solve(problem, solver=solver)
        assert solution.converged.all()
        assert (solution.gap() <= 2e-6 * rho * solution.mass()).all()
    assert solution.steps.max() < 100


@pytest.mark.skipif(not core.COMPILED, reason="there is no compiled code")
@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_compiled_steps_hand_over_to_newton(prices, monkeypatch):
    monkeypatch.setattr(method, "SINKHORN_FIRST", 1)
    monkeypatch.setattr(HandOver, "slowness", 2)
    problem = relaxed(prices, Grid(6, 5), torch.tensor([0.02, 0.002]), (2,))
    solution = solve(problem, tol=1e-12)
    assert solution.converged.all()
    assert [type(solver) for solver in solution.solvers] == [Sinkhorn, Newton]
    assert (solution.steps > 2).any()
    assert solution.steps.max() < 40


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_spaces_agree(prices):
    """A batch on a grid, with weights of zero, an eps and a price for each instance."""
    grid, eps = Grid(5, 4), torch.tensor([0.05, 0.2])
    each = tuple(side if side is None else side.priced(torch.tensor([1.0, 2.0]) * side.rho) for side in prices)
    problem = relaxed(each, grid, eps, (2,))
    C = grid.cost_rows(slice(None))
    on_grid = solve(problem, tol=1e-10)
    dense = solve(Problem(problem.a, problem.b, Dense(C), eps, each), solver=Sinkhorn(), tol=1e-10)
    assert on_grid.converged.all()
    torch.testing.assert_close(on_grid.value, dense.value, rtol=0, atol=1e-9)
    torch.testing.assert_close(on_grid.plan(), dense.plan(), rtol=0, atol=1e-8)
    for k in range(2):
        alone = solve(problem[k], tol=1e-10)
        torch.testing.assert_close(alone.value, on_grid.value[k], rtol=0, atol=1e-9)
    turned = solve(problem.T, tol=1e-10)
    torch.testing.assert_close(turned.value, on_grid.value, rtol=0, atol=1e-9)


@pytest.mark.skipif(not core.COMPILED, reason="there is no compiled code")
@pytest.mark.parametrize(("eps", "steps", "accelerated"), [(0.05, 12, True), (0.05, 12, False), (2e-5, 6, True)])
@pytest.mark.parametrize("space", ["grid", "clouds", "dense"])
@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_compiled_code_makes_the_same_steps(prices, space, eps, steps, accelerated):
    """Also where sums leave floating point, and on atoms without mass; later such steps amplify rounding."""
    spaces = {"grid": Grid(6, 5), "clouds": clouds(30, 30), "dense": Dense(Grid(6, 5).cost_rows(slice(None)))}
    problem = relaxed(prices, spaces[space], eps, (2,))
    limits = method.Limits(1e-9, steps)
    compiled = core.Compiled(*problem.arrays(), prices=problem.prices())
    found = method.only_sinkhorn(compiled, None, limits, accelerated=accelerated)
    expected = method.only_sinkhorn(InTorch(problem), None, limits, accelerated=accelerated)
    assert found.steps.tolist() == expected.steps.tolist()
    np.testing.assert_allclose(found.f, expected.f, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.g, expected.g, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-3, atol=1e-8)


@pytest.mark.skipif(not core.COMPILED, reason="there is no compiled code")
def test_clouds_without_a_matrix_agree():
    """Sums of blocks have five digits while the error is large; the error of the result is measured with all."""
    problem = relaxed((KL(0.1), TV(0.1)), clouds(2100, 2100), 0.01)
    compiled = core.Compiled(*problem.flat().arrays(), prices=problem.flat().prices())
    found = method.only_sinkhorn(compiled, None, method.Limits(0.0, 2))
    expected = method.only_sinkhorn(InTorch(problem.flat()), None, method.Limits(0.0, 2))
    np.testing.assert_allclose(found.f, expected.f, rtol=0, atol=1e-5 * 0.01)
    np.testing.assert_allclose(found.error, expected.error, rtol=1e-4)


@pytest.mark.parametrize("kind", [KL, TV])
def test_large_prices_are_balanced_and_the_mass_grows_with_the_price(kind):
    problem = relaxed((None, None), clouds(), 0.05)
    masses = []
    for rho in (0.01, 0.1, 1.0, 10.0, 1e4):
        solution = solve(Problem(problem.a, problem.b, problem.geometry, 0.05, kind(rho)), tol=1e-9)
        assert solution.converged
        masses.append(float(solution.mass()))
    assert all(low <= high + 1e-9 for low, high in pairwise(masses))
    balanced = solve(problem, tol=1e-9)
    torch.testing.assert_close(solution.plan(), balanced.plan(), rtol=0, atol=1e-4)
    torch.testing.assert_close(solution.value, balanced.value, rtol=0, atol=1e-3)


@pytest.mark.parametrize("rho", [1e-3, 0.1, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("kind", [KL, TV])
def test_steps_do_not_grow_with_the_price(kind, rho):
    """The level of the potentials, which grows with the price where masses differ, is found at once."""
    grid = Grid(8, 8)
    generator = torch.Generator().manual_seed(5)
    a, b = weights(generator, 64), weights(generator, 64)
    balanced = solve(Problem(a, b, grid, 0.02), solver=Sinkhorn())
    solution = solve(Problem(a, 0.6 * b, grid, 0.02, kind(rho)), solver=Sinkhorn())
    assert solution.converged
    assert solution.steps <= 1.2 * balanced.steps


@pytest.mark.parametrize("price", [0.2, 1e2])
def test_which_side_is_heavier_and_a_large_price_cost_no_steps(price):
    """The unknown is the potential that bounds hold less, and excess mass is an error at all prices."""
    generator, grid = torch.Generator().manual_seed(6), Grid(8, 8)
    a, b = weights(generator, 64), weights(generator, 64)
    masses = torch.tensor([1.0, 0.6])[:, None]
    problem = Problem(masses * a, masses.flip(0) * b, grid, 0.01, TV(price))
    solution, turned = solve(problem, solver=Sinkhorn()), solve(problem.T, solver=Sinkhorn())
    assert torch.equal(solution.steps, turned.steps)
    torch.testing.assert_close(solution.value, turned.value, rtol=0, atol=1e-12)
    balanced = solve(Problem(a, b, grid, 0.01), solver=Sinkhorn())
    assert solution.steps.max() <= 1.2 * balanced.steps
    again = solve(problem, init=solution, solver=Sinkhorn())
    assert again.steps.max() <= 1
    same = solve(Problem(a, 0.6 * a, grid, 0.01, TV(price)), tol=1e-7)
    assert same.converged
    assert same.gap() < 1e-7


@pytest.mark.usefixtures("back_end")
def test_a_potential_that_its_bound_holds_is_there_exactly():
    """Of equal measures at a low price the level is where atoms reach the bound: a jump of what f asks for."""
    a = weights(torch.Generator().manual_seed(0), 6, 20) * torch.linspace(0.1, 1.0, 6)[:, None]
    solution = solve(Problem(a, a, Grid(5, 4), 1.0, TV(torch.linspace(0.05, 1.0, 6))), tol=1e-10)
    assert solution.converged.all()
    assert solution.potentials.f.max() <= 1.0 + 1e-14
    assert solution.gap().abs().max() <= 1e-10


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_a_solution_is_a_start_and_so_is_a_model(prices):
    problem = relaxed(prices, Grid(20, 20), 0.01)
    cold = solve(problem, solver=Sinkhorn())
    assert solve(problem, init=cold).steps <= 1
    far = DualPotentials(100 * torch.randn(400), torch.zeros(400))
    assert solve(problem, init=far, solver=Sinkhorn()).steps <= cold.steps + 1
    from_model = solve(problem, init="universal", solver=Sinkhorn())
    assert from_model.converged
    torch.testing.assert_close(from_model.value, cold.value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prices", PRICES.values(), ids=PRICES)
def test_gradients_are_finite_differences(prices):
    """In both weights, zeros included, the points and eps."""
    problem = relaxed(prices, clouds(6, 5), torch.tensor(0.1))
    x, y = problem.geometry.points

    def value(*parts: torch.Tensor) -> torch.Tensor:
        a, b, x, y, eps = parts
        return metaot.ot_value(Problem(a, b, Points(x, y), eps, prices), tol=1e-12, solver=Sinkhorn())

    parts = [problem.a, problem.b, x, y, problem.eps]
    leaves = [part.clone().requires_grad_() for part in parts]
    slopes = torch.autograd.grad(value(*leaves), leaves)
    with torch.no_grad():
        for k, side in enumerate((*prices, KL(1.0), KL(1.0), KL(1.0))):
            if side is None:  # its mass stays one
                continue
            direction = torch.ones_like(parts[k])
            direction.view(-1)[::2] = -0.5
            at = [[p + t * direction if j == k else p for j, p in enumerate(parts)] for t in (0.0, 1e-5, 2e-5)]
            if k < 2:  # weights of zero have a neighbour on one side only
                at = [[p.clamp_min(0) if j == k else p for j, p in enumerate(point)] for point in at]
                direction = torch.where((parts[k] == 0) & (direction < 0), 0.0, direction)
            values = [value(*point) for point in at]
            slope = (-3 * values[0] + 4 * values[1] - values[2]) / 2e-5
            torch.testing.assert_close((slopes[k] * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_prediction_has_the_slope_of_the_dual_value():
    problem = relaxed(PRICES["KL"], clouds(), 0.1)
    f = torch.linspace(0, 0.1, 12).requires_grad_()
    (slope,) = torch.autograd.grad(dual_loss(problem, f), f)
    move = torch.linspace(-1, 1, 12)
    with torch.no_grad():
        up, down = (dual_loss(problem, f + t * move) for t in (1e-6, -1e-6))
    torch.testing.assert_close((slope * move).sum(), (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


def test_float32():
    problem = relaxed(PRICES["KL"], Grid(6, 6), 0.05)
    single = Problem(problem.a.float(), problem.b.float(), problem.geometry, 0.05, problem.marginals)
    solution = solve(single, tol=1e-4)
    assert solution.converged
    assert solution.value.dtype == torch.float32
    torch.testing.assert_close(solution.value.double(), solve(problem).value, rtol=0, atol=1e-5)


def test_partial_transport_moves_no_mass_that_costs_more_than_two_prices():
    x, y = torch.tensor([[0.0], [5.0]]), torch.tensor([[0.1], [9.0]])
    P = solve(Problem([1.0, 1.0], [1.0, 1.0], Points(x, y), 1e-3, TV(1.0))).plan()
    torch.testing.assert_close(P, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), rtol=0, atol=1e-6)


def test_scale_of_masses_and_costs():
    """Units of the cost change nothing, and masses may be of any size."""
    problem = relaxed(PRICES["KL"], clouds(), 0.05)
    C = problem.geometry.cost_rows(slice(None))
    first = solve(problem, tol=1e-10)
    large = solve(Problem(problem.a, problem.b, Dense(1e3 * C), 50.0, KL(300.0)), tol=1e-10)
    torch.testing.assert_close(large.plan(), first.plan(), rtol=0, atol=1e-9)
    for mass in (1e-30, 1e30):
        tiny = solve(Problem(mass * problem.a, problem.b / mass, problem.geometry, 0.05, KL(0.3)), tol=1e-9)
        assert tiny.converged
        torch.testing.assert_close(tiny.mass(), first.mass(), rtol=1e-6, atol=0)


def test_words_and_refusals():
    a, b, grid = np.full(4, 0.25), np.full(4, 0.5), Grid(2, 2)
    problem = Problem(a, b, grid, 0.1, (KL(2), TV(0.5)))
    assert "marginals (KL(2), TV(0.5))" in repr(problem)
    assert torch.equal(problem.balanced().b, torch.full((4,), 0.25))
    with pytest.raises(ValueError, match="rho must be positive and finite, got rho = -1"):
        KL(-1)
    with pytest.raises(ValueError, match=r"got rho\[1\] = inf: None stands for a balanced side"):
        TV([1.0, np.inf])
    for other in ("large", None, True, np.array(True), torch.tensor([True])):
        with pytest.raises(TypeError, match=r"rho in metaot\.KL"):
            KL(other)
    with pytest.raises(TypeError, match="marginals must be None"):
        Problem(a, a, grid, 0.1, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rho must be a number or of the batch's shape"):
        Problem(a, a, grid, 0.1, KL([1.0, 2.0]))
    with pytest.raises(ValueError, match="must sum to one"):
        Problem(a, b, grid, 0.1, (KL(1), None))
    with pytest.raises(ValueError, match="positive, finite mass, got sum a = 0"):
        Problem(0 * a, b, grid, 0.1, KL(1))
    with pytest.raises(ValueError, match="b must not be negative"):
        Problem(a, -b, grid, 0.1, KL(1))
    with pytest.raises(
        ValueError, match=r"bounds of the transport cost takes balanced problems, got marginals \(KL"
    ):
        solve(problem).bounds()
    with pytest.raises(ValueError, match="a model takes balanced problems"):
        metaot.load("universal").predict(problem)
