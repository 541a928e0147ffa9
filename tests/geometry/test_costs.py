"""Cost functions against their formulas, where they are smooth and where they are not."""

import math

import pytest
import torch
from strategies import assert_close, every_batch, on_sphere

from metaot.geometry.costs import COSTS, euclidean, great_circle, named_cost, squared_euclidean


@every_batch
@pytest.mark.parametrize("d", [1, 3, 12])
def test_costs_are_their_formulas(batch, d):
    x, y = torch.randn(*batch, 4, d), torch.randn(*batch, 6, d)
    distance = (x[..., :, None, :] - y[..., None, :, :]).norm(dim=-1)
    assert_close(squared_euclidean(x, y), distance**2, 1e-12)
    assert_close(euclidean(x, y), distance, 1e-12)
    x, y = (cloud / cloud.norm(dim=-1, keepdim=True) for cloud in (x, y))
    assert_close(great_circle(x, y), (x @ y.mT).clamp(-1, 1).acos(), 1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, math.pi / 2, math.pi - 1e-4, math.pi])
def test_angles_are_accurate_between_close_and_between_antipodal_points(angle):
    x, y = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle), 0.0]])
    assert_close(great_circle(x, y), angle, 1e-15 + 1e-12 * (angle > 1), rtol=1e-12)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
def test_costs_are_differentiable_in_both_clouds(cost):
    x, y = on_sphere(3).requires_grad_(), on_sphere(4).requires_grad_()
    assert torch.autograd.gradcheck(cost, (x, y))


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
def test_derivatives_are_finite_at_coinciding_and_at_antipodal_points(cost):
    x = on_sphere(3).requires_grad_()
    y = torch.cat([x, -x]).detach()
    (slope,) = torch.autograd.grad(cost(x, y).sum(), x)
    assert slope.isfinite().all()


@pytest.mark.parametrize("d", [3, 12])
def test_costs_are_never_negative_and_zero_at_coinciding_points(d):
    x = (1e3 + torch.randn(5, d)).float()
    for cost in (squared_euclidean, euclidean):
        C = cost(x, x)
        assert (C >= 0).all()
        assert_close(C.diagonal(), 0.0, 0 if d == 3 else 1e-2)


def test_names_of_costs():
    assert named_cost("euclidean") is euclidean
    assert named_cost(torch.cdist) is torch.cdist
    with pytest.raises(ValueError, match=r"\['euclidean', 'sphere', 'sqeuclidean'\], got 'cosine'"):
        named_cost("cosine")
