"""Supply and demand at fixed places: the distribution of the paper, the user's places, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import assert_close

from metaot.data import Deliveries, Sphere
from metaot.data.sphere import FILE, hours_at, read_places, read_world, surges, synthetic_world
from metaot.geometry.costs import unit_vectors
from metaot.problem import Problem

SMALL = Sphere(batch=32, suppliers=20, customers=300, world="synthetic")


def drawn(problems: Deliveries) -> Problem:
    return problems.sample(torch.Generator().manual_seed(0))


def test_half_of_the_suppliers_have_something_and_all_customers_want_something() -> None:
    problem = drawn(replace(SMALL, batch=400).split("train"))
    active = (problem.a > 0).double().mean()
    assert 0.47 < active < 0.53
    few = drawn(replace(SMALL, batch=500, suppliers=2).split("train"))
    assert ((few.a > 0).sum(-1) > 0).all()
    assert (problem.b > 0).double().mean() > 0.99
    ratios = problem.b / problem.b.mean(-1, keepdim=True)
    assert ratios.std().item() == pytest.approx(1 / 3**0.5, abs=0.02)


def test_the_synthetic_earth_looks_like_one() -> None:
    world = synthetic_world()
    area = torch.deg2rad(world.latitude).cos()[:, None] * torch.ones_like(world.land)
    assert 0.2 < (world.land * area).sum() / area.sum() < 0.4
    assert (world.population[world.land == 0] == 0).all()
    suppliers, customers = replace(SMALL, customers=4000).places()
    asia = (customers.latitude > 5) & (customers.latitude < 50) & (customers.longitude > 65)
    assert 0.4 < asia.double().mean() < 0.7
    assert suppliers.latitude.abs().max() <= 85


def test_the_raster_is_taken_where_it_is(tmp_path: Path) -> None:
    assert read_world("auto", tmp_path).origin == "synthetic"
    with pytest.raises(FileNotFoundError, match="world"):
        read_world("raster", tmp_path)
    with pytest.raises(ValueError, match=r"one of .*'raster', 'synthetic'.*, got 'globe'"):
        read_world("globe", tmp_path)
    (tmp_path / "world").mkdir()
    land = np.zeros((18, 36), dtype=np.uint8)
    land[9, 20] = 1
    lat, lon = np.arange(-85, 90, 10.0), np.arange(-175, 180, 10.0)
    np.savez(tmp_path / FILE, land=land, population=land * 3.0, lat=lat, lon=lon)
    places, _ = Sphere(suppliers=50, customers=50).places(tmp_path)
    assert ((places.latitude - 5).abs() <= 5).all()
    assert ((places.longitude - 25).abs() <= 5).all()
    np.savez(tmp_path / FILE, land=land)
    with pytest.raises(ValueError, match="has no 'lat'"):
        read_world("raster", tmp_path)


def test_patterns_are_other_problems_at_the_same_places() -> None:
    uniform, patterns = SMALL.split("test"), replace(SMALL, demand="patterns").split("train")
    assert uniform.geometry.matches(patterns.geometry)
    assert not uniform.geometry.matches(replace(SMALL, places_seed=1).split("test").geometry)
    ratios = [(p.b / p.b.mean(-1, keepdim=True)).std(-1) for p in (drawn(uniform), drawn(patterns))]
    assert ratios[1].mean() > 1.2 * ratios[0].mean()
    with pytest.raises(ValueError, match="got 'monsoon'"):
        replace(SMALL, demand="monsoon").split("test")


def test_a_surge_is_in_a_region_and_the_hour_follows_the_sun() -> None:
    y = SMALL.split("test").geometry.y
    factors = surges(y, 50, torch.Generator().manual_seed(0))
    assert (factors >= 1).all()
    assert (factors.amax(-1) > 2).all()
    east = torch.arange(-180.0, 180.0, dtype=torch.float64)
    day = hours_at(unit_vectors(torch.zeros_like(east), east), torch.tensor([[0.0], [2.5]]))
    assert_close(torch.rad2deg(torch.tensor([0.0, 2.5])), east[day.argmax(-1)], atol=0.5)
    assert_close(day.amax(-1), 1.0, atol=1e-3)
    assert_close(day.amin(-1), 0.1, atol=1e-3)


def test_places_of_the_user(tmp_path: Path) -> None:
    suppliers, customers = tmp_path / "s.csv", tmp_path / "c.csv"
    suppliers.write_text("name,Latitude,Longitude\nKiel,54.3,10.1\nUlm,48.4,10.0\nJena,50.9,11.6\n")
    customers.write_text("lat,lng,weight\n52,13,2\n48,11,0\n50,8,1\n51,7,1\n")
    source = replace(SMALL, supplier_file=str(suppliers), customer_file=str(customers))
    problems = source.split("train")
    assert problems.geometry.shape == (3, 4)
    problem = drawn(problems)
    assert (problem.b[:, 1] == 0).all()
    assert problem.b[:, 0].mean() > problem.b[:, 2].mean()
    with pytest.raises(ValueError, match="supplier_file is set and customer_file is not"):
        replace(SMALL, supplier_file=str(suppliers)).split("train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("latitude,longitude\n10,20\n91,0\n", r"line 3: latitude must be a number in \[-90, 90\], got '91'"),
        ("latitude,longitude\n10,20\n5,-181\n", r"line 3: longitude .* in \[-180, 360\], got '-181'"),
        ("latitude,longitude\n10,here\n5,1\n", r"line 2: longitude .* got 'here'"),
        ("latitude,longitude\n10\n5,1\n", r"line 2: longitude .* got None"),
        ("latitude,longitude\nnan,3\n5,1\n", r"line 2: latitude .* got 'nan'"),
        ("latitude,longitude,weight\n1,3,-2\n5,1,1\n", r"line 2: weight must be a number in \[0, inf\], got '-2'"),
        ("latitude,longitude,weight\n1,3,0\n5,1,0\n", "every weight is zero"),
        ("x,y\n1,2\n3,4\n", r"needs a column 'latitude' in its first line, got \['x', 'y'\]"),
        ("", "needs a column 'latitude'"),
        ("latitude,longitude\n10,20\n", "names 1 places: at least 2"),
    ],
)
def test_bad_places_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "places.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_places(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv is not there: name a CSV file"):
        read_places(tmp_path / "nowhere.csv")
