"""Degrees and unit vectors; great circles are as long as atlases say."""

import pytest
import torch

from metaot.geometry import Points
from metaot.geometry.earth import KILOMETRES, degrees, unit_vectors


def test_degrees_and_vectors_are_inverse() -> None:
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
def test_a_great_circle_is_as_long_as_it_is(here: tuple, there: tuple, kilometres: float) -> None:
    x, y = (unit_vectors(*torch.tensor([place, place]).T) for place in (here, there))
    angle = Points(x, y, "sphere").cost_rows(slice(0, 1))[0, 0]
    assert KILOMETRES * angle.item() == pytest.approx(kilometres, abs=15)
