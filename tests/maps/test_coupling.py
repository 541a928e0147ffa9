"""Pairs of points: exact assignments, certificates, multiplicities, classes and refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from strategies import assert_close, on_sphere

import metaot
from metaot import Points, couple
from metaot.adapters.flow_matching import OTPlanSampler, match_fn
from metaot.core import Status
from metaot.geometry import LpPower
from metaot.solvers.assignment import assigned, spread

DTYPES = [torch.float32, torch.float64]


def clouds(n: int, m: int, dim: int = 2, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, dim, dtype=dtype), 2 * torch.rand(m, dim, dtype=dtype) + 1


def mean_cost(x: torch.Tensor, y: torch.Tensor, found: metaot.Coupling) -> torch.Tensor:
    i, j = found
    return (x[i].double() - y[j].double()).square().sum(-1).mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "dim"), [(1, 2), (2, 1), (17, 2), (20, 30)])
def test_exact_pairs_are_those_of_the_hungarian_method(back_end, n, dim, dtype):
    x, y = clouds(n, n, dim, dtype)
    C = (x[:, None] - y).square().sum(-1).double()
    rows, columns = linear_sum_assignment(C.numpy())
    found = couple(x, y, eps=0)
    assert found.i.equal(torch.arange(n))
    assert found.j.equal(torch.from_numpy(columns))
    rounding = 1e-5 if dtype == torch.float32 else 1e-12
    for number in (found.cost, found.lower):
        assert_close(number, C[rows, columns].mean(), rounding)
    assert_close(found.independent_cost, C.mean(), rounding)
    assert found.converged


def test_on_a_line_the_exact_pairs_are_in_order(back_end):
    x, y = clouds(25, 25, 1)
    i, j = couple(x, y, eps=0)
    order = x[i, 0].argsort()
    assert (y[j, 0][order].diff() >= 0).all()


@pytest.mark.parametrize("eps", [None, 0.02, 0.5])
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", LpPower(1.5), "sphere"])
def test_the_certificate_holds(back_end, cost, eps):
    x, y = (on_sphere(16), on_sphere(16)) if cost == "sphere" else clouds(16, 16, 3)
    found, exact = couple(x, y, eps=eps, cost=cost), couple(x, y, eps=0, cost=cost)
    assert found.j.sort().values.equal(torch.arange(16))
    C = Points(x, y, cost).cost_rows(slice(None))
    assert_close(found.cost, C[found.i, found.j].mean(), 1e-12)
    assert found.lower <= exact.cost + 1e-12 <= found.cost + 2e-12
    assert found.cost - found.lower <= found.eps + 1e-12
    assert found.bounds.gap >= -1e-12
    assert found.status is Status.CONVERGED


def test_a_permuted_cloud_is_paired_with_itself(back_end):
    x, order = torch.randn(20, 5), torch.randperm(20)
    found = couple(x, x[order], eps=0)
    assert order[found.j].equal(torch.arange(20))
    assert_close(found.cost, 0.0, 1e-12)


def test_points_far_from_the_origin_and_equal_points(back_end):
    x, y = clouds(12, 12, 2)
    assert couple(x + 1e6, y + 1e6, eps=0).j.equal(couple(x, y, eps=0).j)
    same = torch.ones(12, 3)
    for eps in (None, 0, 0.1):
        found = couple(same, same, eps=eps)
        assert found.j.sort().values.equal(torch.arange(12))
        assert_close(found.cost, 0.0, 1e-12)
    doubled = x.repeat_interleave(2, 0)
    assert_close(couple(doubled, y.repeat_interleave(2, 0), eps=0).cost, couple(x, y, eps=0).cost, 1e-12)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (20, 60), (45, 30)])
def test_points_take_part_as_often_as_their_weights_ask_for(n, m, generator):
    x, y = clouds(n, m)
    a, b = torch.rand(n), torch.rand(m)
    a[3] = 0
    found = couple(x, y, a, b, generator=generator)
    count = max(n, m)
    assert len(found) == count
    for side, weights in ((found.i, a), (found.j, b)):
        times = side.bincount(minlength=len(weights))
        assert ((times - count * weights / weights.sum()).abs() < 1).all()
    assert_close(found.cost, mean_cost(x, y, found), 1e-12)
    assert found.converged


def test_a_multiple_of_points_is_shared_alike():
    x, y = clouds(20, 60)
    i, j = couple(x, y)
    assert i.bincount().eq(3).all()
    assert j.bincount().eq(1).all()


def test_sampling_by_weights_has_their_mean():
    x, y, a = torch.zeros(3, 1), torch.zeros(4, 1), torch.tensor([0.1, 0.3, 0.6])
    generator = torch.Generator().manual_seed(1)
    times = sum(couple(x, y, a, generator=generator).i.bincount(minlength=3) for _ in range(100))
    assert_close(times / 100, 4 * a, 0.15)
    again = [couple(x, y, a, generator=generator.manual_seed(k)).i.tolist() for k in (2, 3, 4, 2, 3, 4)]
    assert again[:3] == again[3:]


def test_pairs_within_classes_are_those_of_each_class_alone():
    x, y = clouds(40, 40)
    labels = torch.randint(3, (40,))
    found = couple(x, y, eps=0, classes=labels)
    assert labels[found.i].equal(labels[found.j])
    assert found.i.equal(torch.arange(40))
    for label in range(3):
        own = (labels == label).nonzero()[:, 0]
        assert own[couple(x[own], y[own], eps=0).j].equal(found.j[own])
    assert_close(found.cost, mean_cost(x, y, found), 1e-12)
    assert found.cost >= couple(x, y, eps=0).cost
    other = labels[torch.randperm(40)]
    i, j = couple(x, y, classes=(labels.numpy(), other))
    assert labels[i].equal(other[j])
    plan = couple(x, y, classes=(labels, other)).plan()
    assert plan[labels[:, None] != other].eq(0).all()
    assert_close(plan.sum(), 1.0, 1e-9)


def test_the_entropy_goes_from_that_of_a_permutation_to_that_of_independent_points():
    x, y = clouds(30, 30)
    values = [float(couple(x, y, eps=eps, tol=1e-8).entropy) for eps in (1e-3, 0.1, 1.0, 1e4)]
    assert values == sorted(values)
    assert values[0] < 0.02
    assert values[-1] > 0.999
    found = couple(x, y, eps=0.3, tol=1e-10)
    P = found.plan()
    assert_close(found.entropy, -(P * P.log()).sum() / math.log(30) - 1, 1e-8)
    (solution,) = found.solutions
    assert bool(solution.converged)
    assert solution.problem.eps == 0.3


def test_compiled_code_and_torch_find_pairs_of_one_quality(monkeypatch):
    x, y = clouds(60, 60, 8)
    exact = couple(x, y, eps=0)
    gain = exact.independent_cost - exact.cost
    for compiled in (True, False):
        monkeypatch.setattr(metaot.core, "COMPILED", compiled and metaot.core.COMPILED)
        found = couple(x, y)
        assert (found.independent_cost - found.cost) / gain > 0.97


@pytest.mark.skipif(not metaot.core.COMPILED, reason="not compiled")
def test_certificates_allow_for_rounded_products(monkeypatch):
    monkeypatch.setattr(metaot.core, "quick_products", lambda: True)
    used = []
    multiply = metaot.core.multiply_rows
    monkeypatch.setattr(metaot.core, "multiply_rows", lambda *a, **k: used.append(1) or multiply(*a, **k))
    x, y = clouds(256, 256, 256, torch.float32)
    exact = couple(x.double(), y.double(), eps=0)
    assert not used
    for eps in (None, 1e-3):  # the second is less than rounded products are good for
        found = couple(x, y, eps=eps)
        assert used
        assert_close(found.cost, mean_cost(x, y, found), 1e-3)
        assert_close(found.independent_cost, exact.independent_cost, 1e-3)
        assert found.lower - 1e-3 <= exact.cost <= found.cost + 1e-3 <= found.lower + found.eps + 2e-3


def test_paths_mend_a_coarse_auction(back_end):
    C = torch.rand(30, 30, dtype=torch.float64)
    columns, lower, _ = assigned(C, 0.0, 100.0, torch.zeros(30))
    least = C.numpy()[linear_sum_assignment(C.numpy())].mean()
    assert_close(C.gather(1, columns[:, None]).mean(), least, 1e-12)
    assert_close(lower, least, 1e-12)


def test_images_arrays_and_lists_are_points():
    x, y = torch.randn(6, 2, 3, 3), torch.randn(6, 2, 3, 3)
    found = couple(x, y, eps=0)
    assert couple(x.flatten(1).numpy(), y.flatten(1).numpy(), eps=0).j.equal(found.j)
    assert couple(x.flatten(1).tolist(), y.flatten(1).requires_grad_(), eps=0).j.equal(found.j)
    assert "6 pairs" in repr(found)


def test_adapters_return_each_point_once():
    x, y, labels = *clouds(25, 25), torch.arange(25)
    sampler = OTPlanSampler(eps=0)
    i, j = couple(x, y, eps=0)
    x0, x1, y0, y1 = sampler.sample_plan_with_labels(x, y, labels, None)
    assert x0.equal(x[i])
    assert x1.equal(y[j])
    assert y0.equal(labels[i])
    assert y1 is None
    assert sampler.sample_plan(x, y, replace=True)[1].equal(x1)
    plan = match_fn(eps=0)(x, y)
    assert plan.equal(sampler.get_map(x, y))
    assert_close(plan.sum(0), 1 / 25, 1e-12)
    assert (plan[i, j] > 0).all()
    rows, columns = sampler.sample_map(plan, 25)
    assert torch.equal(rows.sort().values, labels)
    assert columns.equal(j[rows])


def test_trajectories_take_each_point_of_each_cloud_once():
    X = torch.stack([torch.randn(9, 2) + 3 * k for k in range(4)], 1)
    paths = OTPlanSampler(eps=0).sample_trajectory(X)
    for k, cloud in enumerate(paths.unbind(1)):
        assert_close(cloud.sort(0).values, X[:, k].sort(0).values, 0)
        if k:
            assert_close(
                (cloud - paths[:, k - 1]).square().sum(-1).mean(), couple(X[:, k - 1], X[:, k], eps=0).cost, 1e-9
            )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": -1.0}, "eps must be finite and not negative, got -1.0"),
        ({"eps": math.nan}, "eps must be finite"),
        ({"eps": math.inf}, "eps must be finite"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"cost": "cubic"}, "cost must be one of"),
        ({"a": [1.0, -1.0, 1.0]}, r"a must not be negative, got a\[1\]"),
        ({"a": [1.0, 1.0]}, r"a must have the shape"),
        ({"classes": [0, 1]}, "classes of x0 must be one for each of 3 points"),
        ({"classes": ([0, 0, 1], [0, 0, 0])}, "class 1 has 1 points of x0 and 0 of x1"),
        ({"a": [1.0, 1.0, 0.0], "classes": [0, 0, 1]}, "a class needs weights on both sides"),
        ({"cost": lambda x, y: torch.full((len(x), len(y)), math.inf)}, "pairs need finite costs"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        couple(torch.zeros(3, 1), torch.ones(3, 1), **settings)


def test_bad_points_are_named():
    for x, y, words in (
        (torch.zeros(3), torch.zeros(3), r"points on a line are x0\[:, None\]"),
        (torch.zeros(3, 2), torch.zeros(3, 4), r"x0 of shape \(2,\) and x1 of \(4,\) do not fit"),
        (torch.tensor([[math.nan]]), torch.zeros(1, 1), r"x0\[0, 0\] = nan"),
        (torch.zeros(0, 2), torch.zeros(3, 2), r"got \(0, 2\)"),
        (
            torch.full((2, 2), 1e30, dtype=torch.float32) * torch.eye(2).float(),
            np.eye(2, dtype=np.float32),
            "finite",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            couple(x, y)
    with pytest.raises(TypeError, match="x0 must be points"):
        couple("noise", torch.zeros(1, 1))
    with pytest.raises(ValueError, match="eps=0 have no plan"):
        couple(torch.zeros(2, 1), torch.ones(2, 1), eps=0).plan()


def test_costs_that_differ_by_rounding_only_are_assigned():
    y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)).double()
    C = torch.cdist(torch.zeros_like(y), y).square()
    found = assigned(C, 0.0, spread(C))
    assert sorted(found.columns.tolist()) == list(range(30))
    assert float(found.lower) == pytest.approx(float(C.diagonal().mean()), rel=1e-12)
