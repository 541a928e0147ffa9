"""The shipped universal model on images that it never saw: the claims of the README, on fewer pairs."""

import os
from pathlib import Path

import pytest
import torch

import metaot
from metaot import Grid, Points, Problem
from metaot.data.drawings import drawn_images
from metaot.data.images import ARCHIVES, FOLDER, ImageArchives, as_weights
from metaot.evaluation.zero_shot import zero_shot
from metaot.potentials import marginal_error

DATA = Path(os.environ.get("METAOT_DATA", "nowhere"))
needs_images = pytest.mark.skipif(
    not all((DATA / FOLDER / file).exists() for file in ARCHIVES.values()) or not (DATA / "mnist").exists(),
    reason="no images",
)


def pairs(name: str, side: int, eps: float, count: int) -> Problem:
    return ImageArchives(name, side, count, (eps, eps)).split("test").sample(torch.Generator().manual_seed(8))


@needs_images
@pytest.mark.parametrize("name", ["mnist", "usps", "quickdraw", "fashion", "fashion:mnist"])
def test_the_cost_is_right_to_a_percent_with_the_one_step_inside(name: str) -> None:
    model = metaot.load("universal")
    model.passes = 1
    measured = zero_shot({"model": model}, pairs(name, 28, 1e-2, 60), data=name, newton=0, most=1)
    error = measured.starts["model"]["cost error"]
    assert error.mean() <= 0.013
    assert error.quantile(0.95) <= 0.04


@needs_images
@pytest.mark.parametrize(("name", "side", "count"), [("usps", 64, 16), ("fashion:mnist", 128, 3)])
def test_the_resolution_does_not_matter(name: str, side: int, count: int) -> None:
    model = metaot.load("universal")
    measured = zero_shot({"model": model}, pairs(name, side, 1e-2, count), data=name, newton=0, most=1)
    assert measured.starts["model"]["cost error"].mean() <= 0.016


@needs_images
@pytest.mark.parametrize(("eps", "floor"), [(1e-1, 0.01), (1e-2, 0.03), (3e-3, 0.08), (1e-3, 0.16)])
def test_it_predicts_at_every_temperature_of_its_range(eps: float, floor: float) -> None:
    model, problem = metaot.load("universal"), pairs("mnist", 28, eps, 32)
    assert marginal_error(problem, model.predict(problem)).mean() <= floor


def test_it_is_as_good_on_clouds_as_on_images(generator: torch.Generator) -> None:
    model = metaot.load("universal")
    a, b = as_weights(drawn_images(2, 20, generator).double() + 1e-3)
    grid = Grid(20, 20)
    points = Points(*(3 + 10 * atoms for atoms in grid.points))  # in other units, elsewhere
    on_cloud = marginal_error(Problem(a, b, points, 1.0), model.predict(Problem(a, b, points, 1.0)))
    on_grid = marginal_error(Problem(a, b, grid, 1e-2), model.predict(Problem(a, b, grid, 1e-2)))
    torch.testing.assert_close(on_cloud, on_grid, atol=1e-4, rtol=0)
    x, y = torch.rand(2, 80, 2, generator=generator, dtype=torch.float64)
    uniform = torch.full((80,), 1 / 80, dtype=torch.float64)
    problem = Problem(uniform, uniform, Points(x, y), 1e-2)
    assert marginal_error(problem, model.predict(problem)) < 0.08


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("cloud", [False, True])
def test_units_do_not_matter(scale: float, cloud: bool, generator: torch.Generator) -> None:
    """Potentials are in the units of the cost: of a grid scaled by s, with eps by s^2, they are scaled by s^2."""
    model = metaot.load("universal")
    a, b = as_weights(drawn_images(2, 20, generator).double())
    line = torch.linspace(0, 1, 20, dtype=torch.float64)
    here, there = (Points(*Grid(x, x).points) if cloud else Grid(x, x) for x in (line, scale * line))
    expected = model.predict(Problem(a, b, here, 1e-2)).f
    found = model.predict(Problem(a, b, there, 1e-2 * scale**2)).f
    torch.testing.assert_close(found / scale**2, expected, atol=1e-6, rtol=0)
