"""The universal model as one file: any size, any batch, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import predictor

from metaot import Grid, OnnxModel, Points, Problem, solve
from metaot.potentials import c_transform


@pytest.fixture
def model(exported: Callable[[str], Path]) -> OnnxModel:
    return OnnxModel(exported("universal") / "model.onnx")


def images(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(0).random(shape) ** 4
    return drawn / drawn.sum((-2, -1), keepdims=True)


def problem(a: np.ndarray, b: np.ndarray, eps: Any) -> Problem:
    x, y = torch.from_numpy(a).flatten(-2), torch.from_numpy(b).flatten(-2)
    return Problem(x, y, Grid(*a.shape[-2:]), eps)


@pytest.mark.parametrize("shape", [(5, 5), (1, 9, 4), (3, 8, 12), (2, 2, 7, 7)])
@pytest.mark.parametrize("eps", [1e-1, 1e-3, None])
def test_files_say_what_torch_says(model: OnnxModel, shape: tuple[int, ...], eps: float | None) -> None:
    """Also where each image has its own eps."""
    a, b = images(2, *shape)
    temperatures = np.geomspace(1e-1, 1e-3, a[..., 0, 0].size).reshape(shape[:-2]) if eps is None else eps
    found = model.predict(a, b, eps=temperatures)
    expected = predictor("universal").predict(problem(a, b, torch.as_tensor(temperatures) if eps is None else eps))
    assert found.f.shape == shape
    for mine, theirs in ((found.f, expected.f), (found.g, expected.g)):
        np.testing.assert_allclose(mine.reshape(theirs.shape), theirs.numpy(), atol=2e-6)


def test_solve_goes_on_from_the_prediction(model: OnnxModel, back_end: str) -> None:
    a, b = images(2, 2, 6, 5)
    found = model.solve(a, b, eps=0.02, tol=1e-9)
    exact = solve(problem(a, b, 0.02), tol=1e-9)
    assert found.converged.all()
    value = (found.f * a).sum((1, 2)) + (found.g * b).sum((1, 2))
    np.testing.assert_allclose(value, exact.value.numpy(), atol=1e-9)


def test_large_batches_are_taken_in_parts(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(2, 5, 4, 4)
    whole = model.predict(a, b, eps=0.05).f
    monkeypatch.setattr("metaot.onnx.runtime._TERMS", 2 * 4**2)
    np.testing.assert_allclose(model.predict(a, b, eps=0.05).f, whole, atol=1e-7)
    assert model.predict(a[:0], b[:0], eps=0.05).f.shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("shapes", "mass", "eps", "words"),
    [
        (((4, 4), (4, 5)), 1, 0.05, "images of one shape"),
        (((4,), (4,)), 1, 0.05, "images of one shape"),
        (((4, 4), (4, 4)), 1, 0.5, r"eps in \[0.001, 0.1\], got eps = 0.5"),
        (((4, 4), (4, 4)), 2, 0.05, "b must sum to one"),
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
    batch = problem(a, b, 0.02)
    np.testing.assert_array_equal(model.predict(batch).f, model.predict(a, b, eps=0.02).f.reshape(3, 30))
    assert solve(batch, init=model).converged.all()
    x, y = Grid(6, 5).points
    for other in (Grid(torch.linspace(0, 2, 6), 5), Points(x, y)):
        with pytest.raises(ValueError, match="lie evenly on the unit square"):
            model.predict(Problem(batch.a, batch.b, other, 0.02))


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
    g = c_transform(problem(a, b, 1e-3), torch.from_numpy(found.f).flatten())
    np.testing.assert_allclose(found.g.flatten(), g, atol=1e-9)
