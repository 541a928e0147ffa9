"""Pictures of places: where they are drawn, and what a picture shows."""

import numpy as np
import pytest
import torch
from strategies import random_problem

from metaot.geometry import Dense, Grid, Points
from metaot.geometry.costs import unit_vectors
from metaot.potentials import DualPotentials
from metaot.solvers import solve
from metaot.tools.places import places_sheet, plane_coordinates


def test_places_are_drawn_where_they_are() -> None:
    x, y = torch.rand(5, 2), torch.rand(7, 2)
    for found, given in zip(plane_coordinates(Points(x, y)), (x, y), strict=True):
        assert np.array_equal(found, given)
    east, north = torch.tensor([10.0, -170.0, 50.0]), torch.tensor([-20.0, 60.0, 0.0])
    on_globe = plane_coordinates(Points(unit_vectors(north, east), unit_vectors(north, east), "sphere"))
    assert np.allclose(on_globe[0], torch.stack([east, north], -1))


def test_more_dimensions_are_seen_from_their_widest_side() -> None:
    x, y = (torch.randn(50, 3) * torch.tensor([5.0, 0.01, 1.0]) for _ in range(2))
    for found, given in zip(plane_coordinates(Points(x, y)), (x, y), strict=True):
        assert abs(np.corrcoef(found[:, 0], given[:, 0])[0, 1]) > 0.99
        assert abs(np.corrcoef(found[:, 1], given[:, 2])[0, 1]) > 0.99


def test_a_line_has_sources_above_targets_and_a_matrix_has_no_places() -> None:
    x, y = plane_coordinates(Grid(6))
    assert (x[:, 1] > y[:, 1]).all()
    assert plane_coordinates(Dense(torch.rand(3, 4))) is None


@pytest.mark.parametrize("space", ["points", "matrix"])
def test_the_prediction_stands_beside_the_exact_solution(space: str) -> None:
    pytest.importorskip("matplotlib")
    points = Points(torch.rand(6, 2), torch.rand(9, 2))
    geometry = points if space == "points" else Dense(points.cost_rows(slice(None)))
    problem = random_problem(lambda _: geometry, (1,), 0.05)
    exact = solve(problem, tol=1e-6).potentials
    same = places_sheet(problem, exact, exact)
    other = places_sheet(problem, exact, DualPotentials.from_f(problem, torch.zeros_like(problem.a)))
    height, width, _ = same.shape
    assert (width, same.dtype) == (1260, np.uint8)
    below = slice(height // 10, None)  # without the titles
    third = width // 3
    changed = (same != other).any(-1)[below]
    assert changed[:, :third].any()  # predicted
    assert changed[:, 2 * third :].any()  # the difference
