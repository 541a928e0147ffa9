"""Pairs of large clouds without their matrix of costs: the best ones, certificates, and points that are alike."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from strategies import assert_close, on_sphere

from metaot import Points, core, couple
from metaot.maps import coupling

pytestmark = pytest.mark.skipif(not core.COMPILED, reason="not compiled")


@pytest.fixture(autouse=True)
def _all_clouds_are_large(monkeypatch):
    monkeypatch.setattr(coupling, "_LARGE", 1)
    monkeypatch.setattr(coupling, "_HUGE", 1)


def clouds(name: str) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: PLR0911
    x, y = torch.rand(300, 2, dtype=torch.float64), torch.randn(300, 2, dtype=torch.float64)
    if name == "far":
        return x, y + 1e4
    if name == "repeated":
        return x.repeat(2, 1), y[:50].repeat(12, 1)
    if name == "one point":
        return torch.zeros(64, 2, dtype=torch.float64), y[:64]
    if name == "all alike":
        return torch.zeros(64, 2, dtype=torch.float64), torch.ones(64, 2, dtype=torch.float64)
    if name == "grid":
        axis = torch.arange(15.0, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        return grid, grid + torch.tensor([3.0, 1.0])
    if name == "two islands":
        return x, torch.cat([y[:150] - 100, y[150:] + 100])
    return (x[:1], y[:1]) if name == "one" else (x, y)


CLOUDS = ["near", "far", "repeated", "one point", "all alike", "grid", "two islands", "one"]


def least_cost(x: torch.Tensor, y: torch.Tensor, cost: str) -> torch.Tensor:
    C = Points(x, y, cost).cost_rows(slice(None))
    return C[linear_sum_assignment(C.numpy())].mean()


@pytest.mark.parametrize("eps", [None, 0.0, 1e-3])
@pytest.mark.parametrize("name", CLOUDS)
def test_pairs_are_a_permutation_and_the_certificate_holds(name, eps):
    x, y = clouds(name)
    found = couple(x, y, eps=eps)
    C = Points(x, y).cost_rows(slice(None))
    least, rounding = least_cost(x, y, "sqeuclidean"), 1e-12 * float(C.abs().max())
    assert found.i.equal(torch.arange(len(x)))
    assert found.j.sort().values.equal(torch.arange(len(y)))
    assert_close(found.cost, C[found.i, found.j].mean(), rounding)
    assert_close(found.independent_cost, C.mean(), rounding)
    assert found.lower - rounding <= least <= found.cost + rounding
    assert found.converged


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "sphere"])
@pytest.mark.parametrize(("n", "dim"), [(33, 1), (1000, 2), (400, 3), (200, 8)])
def test_with_eps_zero_the_cost_is_the_least_one(cost, n, dim):
    if cost == "sphere":
        x, y = on_sphere(n), on_sphere(n)
    else:
        x, y = torch.rand(n, dim, dtype=torch.float64), torch.randn(n, dim, dtype=torch.float64)
    found, least = couple(x, y, eps=0, cost=cost), least_cost(x, y, cost)
    assert_close(found.cost, least, 1e-12)
    assert_close(found.lower, least, 1e-10)


def test_single_precision_and_classes_take_part():
    x, y = (cloud.float() for cloud in clouds("near"))
    classes = torch.arange(300) % 2
    found = couple(x, y, eps=0, classes=classes)
    assert classes[found.i].equal(classes[found.j])
    least = torch.stack(
        [least_cost(x[classes == k].double(), y[classes == k].double(), "sqeuclidean") for k in (0, 1)]
    )
    assert_close(found.cost, least.mean(), 1e-12)


def test_points_that_are_not_finite_are_named():
    x, y = clouds("near")
    y[7, 1] = torch.nan
    with pytest.raises(ValueError, match="x1"):
        couple(x, y)
