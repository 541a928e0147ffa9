"""The universal model as one file: any size, any batch, without torch."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import metaot
from metaot import Grid, OnnxUniversal, Problem, solve
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import save
from metaot.cli import main
from metaot.models.universal import UniversalNetwork

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
def model(checkpoint: Path) -> OnnxUniversal:
    return OnnxUniversal(checkpoint / "tiny.onnx")


def images(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(0).random(shape) ** 4
    return drawn / drawn.sum((-2, -1), keepdims=True)


@pytest.mark.parametrize("shape", [(5, 5), (1, 9, 4), (3, 8, 12), (2, 2, 7, 7)])
@pytest.mark.parametrize("eps", [1e-1, 1e-3])
def test_files_say_what_torch_says(
    checkpoint: Path, model: OnnxUniversal, shape: tuple[int, ...], eps: float
) -> None:
    a, b = images(2, *shape)
    found = model.predict(a, b, eps=eps)
    problem = Problem(torch.from_numpy(a).flatten(-2), torch.from_numpy(b).flatten(-2), Grid(*shape[-2:]), eps)
    expected = metaot.load(checkpoint).predict(problem)
    assert found.f.shape == shape
    for mine, theirs in ((found.f, expected.f), (found.g, expected.g)):
        np.testing.assert_allclose(mine.reshape(theirs.shape), theirs.numpy(), atol=2e-6)


def test_each_image_may_have_its_own_eps(model: OnnxUniversal) -> None:
    a, b = images(2, 3, 6, 6)
    eps = np.array([0.1, 0.01, 0.002])
    together = model.predict(a, b, eps=eps)
    for k in range(3):
        np.testing.assert_allclose(together.f[k], model.predict(a[k], b[k], eps=eps[k]).f, atol=2e-6)


def test_solve_goes_on_from_the_prediction(model: OnnxUniversal) -> None:
    a, b = images(2, 2, 6, 5)
    found = model.solve(a, b, eps=0.02, tol=1e-9)
    problem = Problem(torch.from_numpy(a).flatten(1), torch.from_numpy(b).flatten(1), Grid(6, 5), 0.02)
    exact = solve(problem, tol=1e-9)
    assert found.converged.all()
    value = (found.f * a).sum((1, 2)) + (found.g * b).sum((1, 2))
    np.testing.assert_allclose(value, exact.value.numpy(), atol=1e-9)


def test_large_batches_are_taken_in_parts(model: OnnxUniversal, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(2, 5, 4, 4)
    whole = model.predict(a, b, eps=0.05).f
    monkeypatch.setattr("metaot.onnx.images._TERMS", 2 * 4**2)
    np.testing.assert_allclose(model.predict(a, b, eps=0.05).f, whole, atol=1e-7)
    assert model.predict(a[:0], b[:0], eps=0.05).f.shape == (0, 4, 4)


def test_it_pickles(model: OnnxUniversal) -> None:
    a, b = images(2, 4, 4)
    other = pickle.loads(pickle.dumps(model))
    assert np.array_equal(other.predict(a, b, eps=0.05).f, model.predict(a, b, eps=0.05).f)
    assert "images of any size" in repr(other)


@pytest.mark.parametrize(
    ("shapes", "eps", "words"),
    [
        (((4, 4), (4, 5)), 0.05, "images of one shape"),
        (((4,), (4,)), 0.05, "images of one shape"),
        (((4, 4), (4, 4)), 0.5, r"eps in \[0.001, 0.1\], got eps = 0.5"),
    ],
)
def test_bad_input_is_refused(
    model: OnnxUniversal, shapes: tuple[tuple[int, ...], ...], eps: float, words: str
) -> None:
    a, b = (np.full(shape, 1 / np.prod(shape)) for shape in shapes)
    with pytest.raises(ValueError, match=words):
        model.predict(a, b, eps=eps)


def test_masses_other_than_one_are_refused(model: OnnxUniversal) -> None:
    with pytest.raises(ValueError, match="weights b must sum to one"):
        model.predict(images(4, 4), 2 * images(4, 4), eps=0.05)


def test_a_file_of_another_kind_and_none_are_refused(checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export.py checkpoints/universal"):
        OnnxUniversal(checkpoint / "none.onnx")
    with pytest.raises(ValueError, match="holds another kind of model"):
        metaot.OnnxModel(checkpoint / "tiny.onnx")


def test_options_for_other_models_are_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--int8"]) == 2
    assert "for potentials on one geometry" in capsys.readouterr().err
