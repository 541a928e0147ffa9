"""Few suppliers and many customers: places from CSV files, a short training, a checkpoint that predicts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metaot
from metaot.checkpoint import read_card
from metaot.data import Deliveries, Sphere
from metaot.recipes import sphere, sphere_mlp
from metaot.training import Recipe, override, train

SMALL = ["steps=60", "data.batch=32", "warmup=10", "validation_batch=4", "average=0.5", "data.eps=3e-3"]
SIZES = {"groups": 64, "fine": 128, "width": 64, "hidden": 64, "depth": 1, "demand": 16}


def small(recipe: Recipe, folder: Path) -> Recipe:
    suppliers, customers = Sphere(suppliers=16, customers=600, world="synthetic").places()
    for name, places in (("suppliers", suppliers), ("customers", customers)):
        rows = zip(places.latitude.tolist(), places.longitude.tolist(), strict=True)
        lines = ["latitude,longitude", *(f"{latitude},{longitude}" for latitude, longitude in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines))
    files = [f"data.{name}_file={folder / name}s.csv" for name in ("supplier", "customer")]
    return override(recipe, [*SMALL, *files])


def test_a_model_of_your_own_places_learns_and_saves_steps(tmp_path: Path) -> None:
    recipe = replace(small(sphere(), tmp_path), model_settings=SIZES)
    train(recipe, tmp_path / "run", progress=False)
    card, model = read_card(tmp_path / "run"), metaot.load(tmp_path / "run")
    assert card["validation"]["relative_dual_gap"] < 0.05
    problem = Deliveries.on(model.geometry, 6, model.eps).sample(torch.Generator().manual_seed(0))
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6).steps.sum() for init in (None, model))
    assert warm < cold


@pytest.mark.slow
def test_training_lowers_the_gap_of_the_network_alone(tmp_path: Path) -> None:
    recipe = replace(small(sphere(), tmp_path), model_settings=SIZES)
    gaps = []
    for steps in (1, 60):
        train(replace(recipe, steps=steps), tmp_path / f"{steps}", progress=False)
        gaps.append(read_card(tmp_path / f"{steps}")["validation"]["relative_dual_gap_of_the_network"])
    assert gaps[1] < 0.7 * gaps[0]


def test_the_paper_s_network_trains_by_the_same_task(tmp_path: Path) -> None:
    recipe = replace(small(sphere_mlp(), tmp_path), steps=3, model_settings={"width": 16, "depth": 1})
    train(recipe, tmp_path / "run", progress=False)
    assert read_card(tmp_path / "run")["validation"]["steps"] > 0


@pytest.mark.slow
def test_resuming_continues_the_same_run(tmp_path: Path) -> None:
    recipe = replace(small(sphere(), tmp_path), steps=8, model_settings=SIZES)
    train(recipe, tmp_path / "whole", progress=False)
    train(recipe, tmp_path / "parts", progress=False, stop_at=3)
    train(recipe, tmp_path / "parts", progress=False, resume=True)
    whole, parts = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_raster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="world"):
        train(override(sphere(), ["data.world=raster"]), tmp_path / "run", data_dir=tmp_path, progress=False)
