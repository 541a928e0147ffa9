"""The universal model as one file: any size, any batch, without torch."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import metaot
from metaot import Grid, OnnxModel, Points, Problem, solve
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import save
from metaot.cli import main
from metaot.models.universal import UniversalNetwork
from metaot.potentials import c_transform

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = UniversalNetwork(modes=6, width=8, hidden=8, depth=1, correction=8, passes=1)
    folder = tmp_path_factory.mktemp("universal") / "tiny"
    save(UniversalPotential(network.eval().requires_grad_(False), (1e-3, 1e-1)), folder)
    assert main(["export", str(folder), "--out", str(folder / "tiny.onnx")]) == 0
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> OnnxModel:
    return OnnxModel(checkpoint / "tiny.onnx")


def images(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(0).random(shape) ** 4
    return drawn / drawn.sum((-2, -1), keepdims=True)


@pytest.mark.parametrize("shape", [(5, 5), (1, 9, 4), (3, 8, 12), (2, 2, 7, 7)])
@pytest.mark.parametrize("eps", [1e-1, 1e-3])
def test_files_say_what_torch_says(checkpoint: Path, model: OnnxModel, shape: tuple[int, ...], eps: float) -> None:
    a, b = images(2, *shape)
    found = model.predict(a, b, eps=eps)
    problem = Problem(torch.from_numpy(a).flatten(-2), torch.from_numpy(b).flatten(-2), Grid(*shape[-2:]), eps)
    expected = metaot.load(checkpoint).predict(problem)
    assert found.f.shape == shape
    for mine, theirs in ((found.f, expected.f), (found.g, expected.g)):
        np.testing.assert_allclose(mine.reshape(theirs.shape), theirs.numpy(), atol=2e-6)


def test_each_image_may_have_its_own_eps(model: OnnxModel) -> None:
    a, b = images(2, 3, 6, 6)
    eps = np.array([0.1, 0.01, 0.002])
    together = model.predict(a, b, eps=eps)
    for k in range(3):
        np.testing.assert_allclose(together.f[k], model.predict(a[k], b[k], eps=eps[k]).f, atol=2e-6)


def test_solve_goes_on_from_the_prediction(model: OnnxModel) -> None:
    a, b = images(2, 2, 6, 5)
    found = model.solve(a, b, eps=0.02, tol=1e-9)
    problem = Problem(torch.from_numpy(a).flatten(1), torch.from_numpy(b).flatten(1), Grid(6, 5), 0.02)
    exact = solve(problem, tol=1e-9)
    assert found.converged.all()
    value = (found.f * a).sum((1, 2)) + (found.g * b).sum((1, 2))
    np.testing.assert_allclose(value, exact.value.numpy(), atol=1e-9)


def test_large_batches_are_taken_in_parts(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(2, 5, 4, 4)
    whole = model.predict(a, b, eps=0.05).f
    monkeypatch.setattr("metaot.onnx.runtime._TERMS", 2 * 4**2)
    np.testing.assert_allclose(model.predict(a, b, eps=0.05).f, whole, atol=1e-7)
    assert model.predict(a[:0], b[:0], eps=0.05).f.shape == (0, 4, 4)


def test_it_pickles(model: OnnxModel) -> None:
    a, b = images(2, 4, 4)
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(other.predict(a, b, eps=0.05).f, model.predict(a, b, eps=0.05).f)
    assert "images of any size" in repr(other)


@pytest.mark.parametrize(
    ("shapes", "mass", "eps", "words"),
    [
        (((4, 4), (4, 5)), 1, 0.05, "images of one shape"),
        (((4,), (4,)), 1, 0.05, "images of one shape"),
        (((4, 4), (4, 4)), 1, 0.5, r"eps in \[0.001, 0.1\], got eps = 0.5"),
        (((4, 4), (4, 4)), 2, 0.05, "weights b must sum to one"),
    ],
)
def test_bad_input_is_refused(
    model: OnnxModel, shapes: tuple[tuple[int, ...], ...], mass: float, eps: float, words: str
) -> None:
    a, b = (np.full(shape, 1 / np.prod(shape)) for shape in shapes)
    with pytest.raises(ValueError, match=words):
        model.predict(a, mass * b, eps=eps)


def test_problems_on_grids_of_any_size_are_predicted(model: OnnxModel) -> None:
    a, b = images(2, 3, 6, 5)
    problem = Problem(torch.from_numpy(a).flatten(1), torch.from_numpy(b).flatten(1), Grid(6, 5), 0.02)
    np.testing.assert_array_equal(model.predict(problem).f, model.predict(a, b, eps=0.02).f.reshape(3, 30))
    assert solve(problem, init=model).converged.all()
    x, y = Grid(6, 5).points
    for other in (Grid(torch.linspace(0, 2, 6), 5), Points(x, y)):
        with pytest.raises(ValueError, match="lie evenly on the unit square"):
            model.predict(Problem(problem.a, problem.b, other, 0.02))


def test_two_pixels_are_as_far_apart_as_they_are(model: OnnxModel) -> None:
    """The only plan moves all mass from one to the other: the value is the squared distance, 37/49."""
    a, b = np.zeros((2, 8, 8))
    a[0, 3] = b[6, 2] = 1
    found = model.predict(a, b, eps=0.01)
    assert np.isfinite(found.f).all()
    assert (found.f * a).sum() + (found.g * b).sum() == pytest.approx(0.755102, abs=1e-6)
    one = np.ones((1, 1))
    found = model.predict(one, one, eps=0.01)
    assert found.f + found.g == pytest.approx(0, abs=1e-9)


def test_sums_that_leave_floating_point_are_taken_in_logarithms(model: OnnxModel) -> None:
    a, b = np.zeros((2, 30, 30))
    a[0, :3] = b[-1, -2:] = 1
    a, b = a / a.sum(), b / b.sum()
    found = model.predict(a, b, eps=1e-3)
    problem = Problem(torch.from_numpy(a).flatten(), torch.from_numpy(b).flatten(), Grid(30, 30), 1e-3)
    g = c_transform(problem, torch.from_numpy(found.f).flatten())
    np.testing.assert_allclose(found.g.flatten(), g, atol=1e-9)


def test_a_file_of_another_kind_and_none_are_refused(checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.py CHECKPOINT"):
        metaot.load(checkpoint / "none.onnx")
    assert isinstance(metaot.load(checkpoint / "tiny.onnx"), OnnxModel)
