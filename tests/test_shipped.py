"""The checkpoints of the repository: small, described, and as good as the README says, on problems never seen."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import require_no_silent_change

import metaot
from metaot import Grid, Points, Problem, SampleProblem
from metaot.amortize.maps import BuresStart
from metaot.data import Deliveries, Mnist, Paintings
from metaot.data.drawings import drawn_images
from metaot.data.images import ARCHIVES, FOLDER, MNIST_FILES, ImageArchives, as_weights
from metaot.evaluation.zero_shot import zero_shot
from metaot.objectives import brenier_value, dual_value
from metaot.onnx.compiled import FILES
from metaot.onnx.maps import map_beside
from metaot.potentials import marginal_error
from metaot.tools.value import half_squared_distance

ROOT = Path(__file__).parents[1] / "checkpoints"
DATA = Path(os.environ.get("METAOT_DATA", "nowhere"))
SPHERE = metaot.load(ROOT / "sphere")
needs_mnist = pytest.mark.skipif(not (DATA / "mnist" / MNIST_FILES["test"]).exists(), reason="no MNIST")
needs_paintings = pytest.mark.skipif(not (DATA / "paintings").is_dir(), reason="no paintings")
needs_images = pytest.mark.skipif(
    not all((DATA / FOLDER / file).exists() for file in ARCHIVES.values()) or not (DATA / "mnist").exists(),
    reason="no images",
)


@pytest.mark.parametrize("folder", sorted(ROOT.iterdir()), ids=lambda folder: folder.name)
def test_a_card_says_how_the_model_was_made_and_measured(folder: Path) -> None:
    card = json.loads((folder / "model.json").read_text())
    assert {"recipe", "seed", "step", "command", "training_seconds", "machine", "versions", "test"} <= card.keys()
    assert (folder / "model.safetensors").stat().st_size < 10e6
    files = {file.name for file in folder.iterdir() if file.is_file()}
    networks = {"network.onnx", "correction.onnx", "model.onnx", "model-push.onnx"}
    assert files - networks == {"model.safetensors", "model.json"}


@pytest.mark.parametrize("name", ["mnist", "universal"])
def test_networks_are_shipped_for_the_weights_beside_them(name: str) -> None:
    model = metaot.load(ROOT / name)
    geometry = model.geometry or Grid(5, 5)
    a = torch.full((1, geometry.shape[0]), 1 / geometry.shape[0], dtype=torch.float64)
    assert model._network(Problem(a, a, geometry, 1e-2)) is not model.model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        f"{model}/{file}"
        for model in ("mnist", "universal")
        for file in ("model.json", "model.safetensors", *FILES)
    ],
)
def test_damage_of_a_shipped_file_is_refused_or_changes_no_number(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / Path(name).parent, tmp_path / "run")
    a, b = torch.rand(2, 28 * 28, dtype=torch.float64).softmax(-1)
    problem = Problem(a, b, Grid(28, 28), 1e-2)

    def answer() -> np.ndarray:
        return metaot.load(folder).predict(problem).f.numpy()

    require_no_silent_change(folder / Path(name).name, answer)


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
    guess, alone = model.predict(problem), model.predict(problem[0])
    assert (alone.f - guess.f[0]).abs().max() <= 2e-6 * guess.f[0].abs().max(), "as in a batch"
    plain = metaot.Sinkhorn(accelerated=False)
    solution = metaot.solve(problem, init=guess, solver=plain, tol=1e-9, max_steps=1)
    assert solution.error.mean() < floor


def pairs(name: str, side: int, eps: float, count: int) -> Problem:
    return ImageArchives(name, side, count, (eps, eps)).split("test").sample(torch.Generator().manual_seed(8))


@needs_images
@pytest.mark.parametrize(
    ("name", "side", "count"),
    [(name, 28, 60) for name in ("mnist", "usps", "quickdraw", "fashion", "fashion:mnist")]
    + [("usps", 64, 16), pytest.param("fashion:mnist", 128, 3, marks=pytest.mark.slow)],
)
def test_universal_costs_are_right_to_a_percent_with_the_one_step_inside(name: str, side: int, count: int) -> None:
    """At every resolution; of many pairs, the worst too."""
    model = metaot.load("universal")
    model.passes = 1 if side == 28 else model.passes
    measured = zero_shot({"model": model}, pairs(name, side, 1e-2, count), data=name, newton=0, most=1)
    error = measured.starts["model"]["cost error"]
    assert error.mean() <= (0.013 if side == 28 else 0.016)
    assert error.quantile(0.95) <= 0.04


@needs_images
@pytest.mark.parametrize(("eps", "floor"), [(1e-1, 0.01), (1e-2, 0.03), (3e-3, 0.08), (1e-3, 0.16)])
def test_the_universal_model_predicts_at_every_temperature_of_its_range(eps: float, floor: float) -> None:
    model, problem = metaot.load("universal"), pairs("mnist", 28, eps, 32)
    assert marginal_error(problem, model.predict(problem)).mean() <= floor


def test_the_universal_model_predicts_between_clouds(generator: torch.Generator) -> None:
    x, y = torch.rand(2, 80, 2, generator=generator, dtype=torch.float64)
    uniform = torch.full((80,), 1 / 80, dtype=torch.float64)
    problem = Problem(uniform, uniform, Points(x, y), 1e-2)
    assert marginal_error(problem, metaot.load("universal").predict(problem)) < 0.08


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("cloud", [False, True])
def test_units_do_not_matter_to_the_universal_model(scale: float, cloud: bool, generator: torch.Generator) -> None:
    """On a grid scaled by s and moved, with eps scaled by s^2, potentials are scaled by s^2; and on its points."""
    model = metaot.load("universal")
    a, b = as_weights(drawn_images(2, 20, generator).double())
    line = torch.linspace(0, 1, 20, dtype=torch.float64)
    here, there = Grid(line, line), Grid(*[scale * (line + 3)] * 2)
    expected = model.predict(Problem(a, b, here, 1e-2)).f
    found = model.predict(Problem(a, b, Points(*there.points) if cloud else there, 1e-2 * scale**2)).f
    torch.testing.assert_close(found / scale**2, expected, atol=1e-5, rtol=0)


def deliveries(count: int, *, patterns: bool = False) -> Problem:
    drawn = Deliveries.on(SPHERE.geometry, count, SPHERE.eps, patterns=patterns)
    return drawn.sample(torch.Generator().manual_seed(11))


def test_on_the_sphere_the_prediction_alone_is_good() -> None:
    problem = deliveries(4)
    guess, exact = SPHERE.predict(problem), metaot.solve(problem, init=SPHERE, tol=1e-7).value
    assert marginal_error(problem, guess).mean() < 0.05
    assert ((exact - dual_value(problem, guess)) / exact).mean() < 1e-3


@pytest.mark.parametrize(("tol", "floor"), [(1e-3, 6.0), (1e-9, 9.0)])
def test_few_newton_steps_are_left(tol: float, floor: float) -> None:
    solution = metaot.solve(deliveries(4), init=SPHERE, solver=metaot.Newton(), tol=tol)
    assert solution.converged.all()
    assert solution.steps.double().mean() <= floor


@pytest.mark.parametrize("patterns", [False, True])
def test_no_problem_is_slower_than_cold_also_where_demand_was_never_seen(patterns: bool) -> None:
    problem = deliveries(3, patterns=patterns)
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6) for init in (None, SPHERE))
    assert (warm.steps <= cold.steps + 1).all()
    assert warm.steps.sum() < 0.7 * cold.steps.sum()


def test_tiny_weights_are_as_good_as_none() -> None:
    """Suppliers with 1e-12 instead of nothing: the same prediction, which saves steps."""
    empty = deliveries(2)
    tiny = torch.where(empty.a == 0, 1e-12, empty.a)
    problem = Problem(tiny / tiny.sum(-1, keepdim=True), empty.b, empty.geometry, empty.eps)
    assert (problem.a < 1e-9).any()
    on_mass = empty.a > 0
    expected, found = SPHERE.predict(empty).f, SPHERE.predict(problem).f
    torch.testing.assert_close(found[on_mass], expected[on_mass], atol=1e-6, rtol=0)
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6).steps for init in (None, SPHERE))
    assert (warm <= cold + 3).all()
    assert warm.sum() < 0.9 * cold.sum()


@needs_paintings
def test_held_out_palettes_come_close_to_the_optimum_in_one_pass() -> None:
    pytest.importorskip("PIL")
    pairs = replace(Paintings().split("test"), batch=12, samples=400)
    problem = pairs.sample(torch.Generator().manual_seed(3))
    distance = half_squared_distance(problem)
    model, linear = metaot.load(ROOT / "palette"), BuresStart()
    found, before = (
        brenier_value(problem, start.predict(problem), tol=1e-3) / distance for start in (model, linear)
    )
    assert found.mean() > 0.92
    assert 1 - found.mean() < 0.5 * (1 - before.mean())
    assert found.max() <= 1.005


def test_the_palette_model_reads_any_three_dimensional_clouds_also_as_onnx() -> None:
    x, y = torch.rand(2, 400, 3).float()
    expected = metaot.load(ROOT / "palette").stages(SampleProblem(x, y**2))[-1]
    assert (expected.pull(expected.push(x)) - x).abs().mean() < 0.05
    network = map_beside(ROOT / "palette")
    assert network is not None
    found = network.predict(x.numpy(), (y**2).numpy())
    torch.testing.assert_close(torch.from_numpy(found.push(x.numpy())), expected.push(x), atol=3e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(found.pull(y.numpy())), expected.pull(y), atol=3e-5, rtol=0)
