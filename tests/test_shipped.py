"""The checkpoints of the repository: small, described, and as good as the README says."""

import json
import os
from pathlib import Path

import pytest
import torch

import metaot
from metaot.data import Mnist
from metaot.data.images import MNIST_FILES
from metaot.problem import Problem

ROOT = Path(__file__).parents[1] / "checkpoints"
DATA = Path(os.environ.get("METAOT_DATA", "nowhere"))
needs_mnist = pytest.mark.skipif(not (DATA / "mnist" / MNIST_FILES["test"]).exists(), reason="no MNIST")


@pytest.mark.parametrize("folder", sorted(ROOT.iterdir()), ids=lambda folder: folder.name)
def test_a_card_says_how_the_model_was_made_and_measured(folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    assert {"recipe", "seed", "step", "command", "training_seconds", "machine", "versions", "test"} <= card.keys()
    assert (folder / "model.pt").stat().st_size < 10e6
    files = {file.name for file in folder.iterdir() if file.is_file()}
    networks = {"network.onnx", "correction.onnx", "model.onnx", "model-push.onnx"}
    assert files - networks == {"model.pt", "model.json"}


@pytest.mark.parametrize("name", ["mnist", "universal"])
def test_networks_are_shipped_for_the_weights_beside_them(name: str) -> None:
    model = metaot.load(ROOT / name)
    geometry = getattr(model, "geometry", metaot.Grid(5, 5))
    a = torch.full((1, geometry.shape[0]), 1 / geometry.shape[0], dtype=torch.float64)
    assert model._network(Problem(a, a, geometry, 1e-2)) is not model.model


@needs_mnist
@pytest.mark.parametrize(("tol", "floor"), [(1e-2, 2.0), (1e-3, 15.0)])
def test_mnist_steps_even_counting_those_inside_the_prediction(tol: float, floor: float) -> None:
    """The pass inside the prediction counts as the Sinkhorn step that it contains."""
    model = metaot.load(ROOT / "mnist")
    assert model.passes == 1
    problem = Mnist(batch=64, eps=(1e-2, 1e-2)).split("test").sample(torch.Generator().manual_seed(5))
    steps = metaot.solve(problem, init=model, tol=tol).steps
    assert steps.double().mean() + model.passes <= floor


@needs_mnist
@pytest.mark.parametrize(("eps", "floor"), [(1e-3, 0.08), (1e-2, 0.01), (1e-1, 0.005)])
def test_mnist_predicts_at_every_temperature_of_its_range(eps: float, floor: float) -> None:
    """L1 error after two steps, of which one is inside the prediction."""
    model = metaot.load(ROOT / "mnist")
    problem = Mnist(batch=32, eps=(eps, eps)).split("test").sample(torch.Generator().manual_seed(6))
    solution = metaot.solve(
        problem, init=model.predict(problem), solver=metaot.Sinkhorn(accelerated=False), tol=1e-9, max_steps=1
    )
    assert solution.error.mean() < floor


@needs_mnist
@pytest.mark.parametrize("passes", [0, 1, 2])
def test_mnist_predicts_one_image_as_in_a_batch(passes: int) -> None:
    model = metaot.load(ROOT / "mnist")
    model.passes = passes
    for eps in (1e-3, 3e-3, 1e-2, 1e-1):
        problem = Mnist(batch=8, eps=(eps, eps)).split("test").sample(torch.Generator().manual_seed(7))
        problem = Problem(problem.a, problem.b, problem.geometry, eps)
        together = model.predict(problem).f
        for i, f in enumerate(together):
            assert (model.predict(problem[i]).f - f).abs().max() <= 2e-6 * f.abs().max()
