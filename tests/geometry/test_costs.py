"""Cost functions against their formulas, where they are smooth and where they are not; distances on the Earth."""

import math

import pytest
import torch
from strategies import assert_close, every_batch, on_sphere

from metaot.geometry import Points
from metaot.geometry.costs import (
    COSTS,
    KILOMETRES,
    LpPower,
    degrees,
    euclidean,
    great_circle,
    squared_euclidean,
    unit_vectors,
)


@every_batch
@pytest.mark.parametrize("d", [1, 3, 12])
def test_costs_are_their_formulas(batch, d):
    x, y = torch.randn(*batch, 4, d), torch.randn(*batch, 6, d)
    distance = (x[..., :, None, :] - y[..., None, :, :]).norm(dim=-1)
    assert_close(squared_euclidean(x, y), distance**2, 1e-12)
    assert_close(euclidean(x, y), distance, 1e-12)
    assert_close(COSTS["dot"](x, y), -(x @ y.mT), 1e-12)
    assert_close(
        COSTS["cosine"](x, y), 1 - torch.cosine_similarity(x[..., :, None, :], y[..., None, :, :], -1), 1e-12
    )
    gaps = (x[..., :, None, :] - y[..., None, :, :]).abs()
    assert_close(LpPower(1.5)(x, y), gaps.pow(1.5).sum(-1), 1e-12)
    x, y = (cloud / cloud.norm(dim=-1, keepdim=True) for cloud in (x, y))
    assert_close(great_circle(x, y), (x @ y.mT).clamp(-1, 1).acos(), 1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, math.pi / 2, math.pi - 1e-4, math.pi])
def test_angles_are_accurate_between_close_and_between_antipodal_points(angle):
    x, y = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle), 0.0]])
    assert_close(great_circle(x, y), angle, 1e-15 + 1e-12 * (angle > 1), rtol=1e-12)


@pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
def test_costs_are_differentiable_in_both_clouds(cost):
    """With finite derivatives also at coinciding and at antipodal points."""
    x, y = on_sphere(3).requires_grad_(), on_sphere(4).requires_grad_()
    assert torch.autograd.gradcheck(cost, (x, y))
    (slope,) = torch.autograd.grad(cost(x, torch.cat([x, -x]).detach()).sum(), x)
    assert slope.isfinite().all()


@pytest.mark.parametrize("d", [12, 64])
@pytest.mark.parametrize("close", [2, 30], ids=["few close pairs", "many"])
def test_distances_are_right_to_rounding_between_close_points_in_many_dimensions(d, close):
    """Products cancel there; compared with differences of the same numbers, in relative terms."""
    x, y = torch.randn(40, d), torch.randn(60, d)
    x[:close], y[:close] = x[0], x[0] + 1e-6 * torch.randn(close, d)
    gaps = x[:, None] - y
    assert_close(squared_euclidean(x, y) / gaps.square().sum(-1), 1.0, 1e-14)
    assert_close(euclidean(x, y) / gaps.norm(dim=-1), 1.0, 1e-14)
    angles = 2 * torch.atan2(gaps.norm(dim=-1), (x[:, None] + y).norm(dim=-1))
    assert_close(great_circle(x, y) / angles, 1.0, 1e-14)


@pytest.mark.parametrize("scale", [0.03, 0.1, 0.3, 1.0])
def test_distances_keep_thirteen_digits_where_all_points_are_nearer_than_far(scale):
    x = torch.randn(20, 30)
    y = x + scale * torch.randn(20, 30)
    assert_close(squared_euclidean(x, y) / (x[:, None] - y).square().sum(-1), 1.0, 1e-13)


def test_degrees_and_vectors_are_inverse():
    latitude = torch.tensor([-90.0, -33.5, 0.0, 52.5, 89.9])
    longitude = torch.tensor([0.0, -70.6, 180.0, 13.4, -179.9])
    x = unit_vectors(latitude, longitude)
    assert torch.allclose(x.norm(dim=-1), torch.ones(5))
    north, east = degrees(x)
    assert torch.allclose(north, latitude, atol=1e-6)
    assert torch.allclose(east[1:], longitude[1:], atol=1e-6)


@pytest.mark.parametrize(
    ("here", "there", "kilometres"),
    [
        ((52.5, 13.4), (40.7, -74.0), 6385),  # Berlin, New York
        ((-33.9, 151.2), (51.5, -0.1), 16994),  # Sydney, London
        ((0.0, 0.0), (0.0, 180.0), 20015),
        ((10.0, 20.0), (10.0, 20.0), 0),
    ],
)
def test_a_great_circle_is_as_long_as_it_is(here, there, kilometres):
    x, y = (unit_vectors(*torch.tensor([place, place]).T) for place in (here, there))
    angle = Points(x, y, "sphere").cost_rows(slice(0, 1))[0, 0]
    assert KILOMETRES * angle.item() == pytest.approx(kilometres, abs=15)
