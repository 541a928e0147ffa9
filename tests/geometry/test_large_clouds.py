"""Sums between large clouds, which compiled code makes over near points, against the whole cost matrix."""

import math
from collections.abc import Callable

import pytest
import torch
from strategies import assert_close
from torch import Tensor
from torch.nn.functional import normalize

from metaot import core
from metaot.geometry import Geometry, Points, points
from metaot.problem import Problem
from metaot.solvers import solve, transport_bounds
from metaot.tools.value import ot_value

compiled = pytest.mark.skipif(not core.COMPILED, reason="there is no compiled code")
every_cost = pytest.mark.parametrize("cost", core.POINT_COSTS)
every_named_cost = pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "sphere", "cosine", "dot"])


@pytest.fixture(autouse=True)
def every_pair_of_clouds_is_large(monkeypatch):
    monkeypatch.setattr(points, "_LARGE", 0)


def clouds(cost: str, d: int, n: int = 300, m: int = 1100) -> Points:
    """Return two clouds with some points more than once, and some of one cloud in the other."""
    x, y = torch.randn(n, d), 0.7 * torch.randn(m, d) + 0.2
    x[n - n // 2 :] = x[: n // 2]
    y[: min(n, m) // 3] = x[: min(n, m) // 3]
    if cost == "sphere":
        x, y = (normalize(z, dim=-1) for z in (x, y))
    return Points(x, y, cost)


def potential(m: int, size: float = 1.0) -> Tensor:
    """Return numbers of some size, a third of them -inf."""
    h = size * torch.randn(m)
    h[1::3] = -torch.inf
    return h


def assert_sums(space: Points, h: Tensor, eps: float, v: Tensor) -> None:
    """Assert that all sums are those of the cost matrix, as far as its own rounding lets it know them."""
    largest = float(h[h > -torch.inf].abs().max() + space.cost_rows(slice(None)).max())
    in_weights = min(1.0, 1e-14 + 4e-16 * largest / eps)
    for name, arguments, atol in (
        ("softmin", (h, eps), 1e-15 * largest + 1e-14 * eps),
        ("mean", (h, v, eps), in_weights * float(v.abs().max())),
        ("expected_cost", (h, eps), in_weights * largest),
        ("hardmin", (h,), 1e-15 * largest),
    ):
        expected = getattr(Geometry, name)(space, *arguments)
        assert_close(getattr(space, name)(*arguments), expected, atol)


@compiled
@pytest.mark.parametrize("d", [1, 2, 3, 5])
@every_cost
def test_sums_are_those_of_the_cost_matrix(cost, d):
    space = clouds(cost, max(d, 2) if cost == "sphere" else d)
    for eps, size in ((1e-2, 0.1), (1e-2, 1.0), (1e-3, 1e4), (1e-9, 1.0), (1e6, 1.0)):
        assert_sums(space, potential(1100, size), eps, torch.randn(1100, 3))


@compiled
@every_cost
def test_any_sizes_fit(cost):
    for n, m in ((1, 1000), (1000, 2), (33, 65), (1, 1)):
        assert_sums(clouds(cost, 3, n, m), potential(m), 0.1, torch.randn(m, 40))


@compiled
def test_potentials_of_nothing():
    space, empty = clouds("sqeuclidean", 2), torch.full((1100,), -torch.inf)
    assert (space.softmin(empty, 0.1) == torch.inf).all()
    assert (space.hardmin(empty) == torch.inf).all()
    assert (space.expected_cost(empty, 0.1) == 0).all()
    assert (space.mean(empty, space.y, 0.1) == 0).all()
    lost = torch.zeros(1100)
    lost[7] = torch.nan
    assert space.softmin(lost, 0.1).isnan().all()


@compiled
def test_a_batch_is_one_instance_after_another():
    shared, h, v = clouds("sqeuclidean", 2), torch.randn(3, 1100), torch.randn(1100, 2)
    eps, values = torch.tensor([0.01, 0.1, 1.0]), torch.randn(3, 1100, 2)
    each = Points(shared.x + torch.rand(3, 1, 2), shared.y.expand(3, -1, -1))
    for space in (shared, each):
        for k in range(3):
            assert_close(space.softmin(h, eps)[k], space[k].softmin(h[k], float(eps[k])), 1e-13)
            assert_close(space.hardmin(h)[k], space[k].hardmin(h[k]), 1e-13)
            assert_close(space.mean(h, v, eps)[k], space[k].mean(h[k], v, float(eps[k])), 1e-13)
            assert_close(space.mean(h, values, 0.1)[k], space[k].mean(h[k], values[k], 0.1), 1e-13)


@compiled
def test_float32_is_summed_in_float64():
    space, h = clouds("sqeuclidean", 2), torch.randn(1100).float()
    single = space.to(h)
    found = single.softmin(h, 0.01)
    assert found.dtype == torch.float32
    assert_close(found, single.to(torch.empty(0, dtype=torch.float64)).softmin(h.double(), 0.01), 1e-6)


def test_derivatives_are_those_of_the_cost_matrix():
    space, h = clouds("sqeuclidean", 2), torch.randn(1100, requires_grad=True)
    (slope,) = torch.autograd.grad(space.softmin(h, 0.1).sum(), h)
    assert_close(slope, -(h - space.cost_rows(slice(None))).div(0.1).softmax(-1).sum(0), 1e-10)


@compiled
@every_cost
def test_near_points_alone_are_summed(cost, monkeypatch):
    """No row of the cost matrix is made, for a solution and all that it says."""
    space, eps = clouds(cost, 3), 0.05
    a, b = (torch.full((k,), 1 / k) for k in space.shape)
    solution = solve(Problem(a, b, space, eps), tol=1e-2)

    def no_rows(*_: object) -> Tensor:
        raise AssertionError("rows of the cost matrix were made")

    monkeypatch.setattr(Points, "cost_rows", no_rows)
    bounds = solution.bounds()
    assert bounds.lower <= solution.value <= bounds.upper + eps * math.log(300)
    assert bounds.lower <= solution.cost() <= bounds.upper + eps * math.log(300)
    assert_close(solution.mass(), 1.0, 1e-2)
    assert solution.gap() < 0.1
    if cost != "sphere":
        assert_close(solution.map().push(space.x), solution.transport(), 1e-13)


@compiled
@every_cost
def test_the_derivatives_of_a_value_are_those_of_small_clouds(cost, monkeypatch):
    space, found = clouds(cost, 3, 200, 300), []
    a, b = (torch.rand(2, k) for k in space.shape)
    for least in (0, 2**40):
        monkeypatch.setattr(points, "_LARGE", least)
        x, y = (z.clone().requires_grad_() for z in space.points)
        weights = (w / w.sum(-1, keepdim=True) for w in (a, b))
        value = ot_value(Problem(*weights, Points(x, y, cost), 0.1), tol=1e-10)
        value.sum().backward()
        found.append((value.detach(), x.grad, y.grad))
    for near, whole in zip(*found, strict=True):
        assert_close(near, whole, 1e-8)


@every_named_cost
def test_the_product_with_the_costs(cost):
    space, v = clouds(cost, 3), torch.randn(1100)
    for w in (v, v.abs(), torch.zeros(1100)):
        assert_close(space.times_cost(w), space.cost_rows(slice(None)) @ w, 1e-11)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@every_named_cost
def test_a_plan_has_its_marginals_and_its_cost(cost, batch):
    space = clouds(cost, 4, 50, 70)
    a, b = (torch.rand(*batch, k) * (torch.rand(*batch, k) > 0.3) for k in space.shape)
    b = b * a.sum(-1, keepdim=True) / b.sum(-1, keepdim=True)
    i, j, masses = points.plan_along_curve(space.x, space.y, a, b)
    P = torch.zeros(*batch, 50 * 70).scatter_add(-1, 70 * i + j, masses).unflatten(-1, (50, 70))
    assert_close(P.sum(-1), a, 1e-12)
    assert_close(P.sum(-2), b, 1e-12)
    assert (masses >= 0).all()
    C = space.cost_rows(slice(None))
    product = (a * Geometry.times_cost(space, b)).sum(-1) / a.sum(-1)
    expected = (P * C).sum((-2, -1))
    has_product = cost in ("sqeuclidean", "cosine", "dot")
    assert_close(space.cost_of_a_plan(a, b), torch.minimum(expected, product) if has_product else expected, 1e-11)


def test_mass_that_is_matched_along_the_curve_stays_near():
    """Between two samples of one square it goes much less far than between independent points."""
    space = Points(torch.rand(2000, 2), torch.rand(2000, 2), "euclidean")
    a = torch.full((2000,), 1 / 2000)
    assert space.cost_of_a_plan(a, a) < 0.25 * space.mean_cost()


@every_cost
def test_the_bounds_are_true_whatever_the_potentials_are(cost):
    space = clouds(cost, 3, 60, 60)
    a, C = torch.full((60,), 1 / 60), space.cost_rows(slice(None))
    assign: Callable = pytest.importorskip("scipy.optimize").linear_sum_assignment
    exact = C[assign(C.numpy())].mean()
    solved = solve(Problem(a, a, space, 1e-2), tol=1e-3).potentials
    for f, g in ((solved.f, solved.g), (torch.randn(60), torch.randn(60)), (1e3 * torch.randn(60), solved.g)):
        bounds = transport_bounds(Problem(a, a, space, 1e-2), (f, g))
        assert bounds.lower - 1e-11 <= exact <= bounds.upper + 1e-11
