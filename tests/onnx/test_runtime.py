"""`OnnxModel`: numpy in, numpy out, nothing wrong goes through; alone and in threads."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import predictor
from strategies import unchecked

from metaot import Dense, Grid, Points, Status, dual_value, solve
from metaot.geometry import Geometry
from metaot.onnx import OnnxModel
from metaot.potentials import DualPotentials, marginal_error, plan, transport_cost
from metaot.problem import Problem

EPS = 3e-2


@pytest.fixture
def model(written: Path) -> OnnxModel:
    return OnnxModel(written)


def weights(*batch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw weights of which many are zero."""
    draw = np.random.default_rng(seed).random((2, *batch, 30))
    draw *= draw > 0.4
    a, b = draw / draw.sum(-1, keepdims=True)
    return a, b


def problem(*batch: int, eps: Any = EPS, geometry: Geometry | None = None) -> Problem:
    a, b = (torch.as_tensor(w) for w in weights(*batch))
    return Problem(a, b, geometry or Grid(6, 5), eps)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (70,), (0,)])
def test_arrays_in_arrays_out(model: OnnxModel, batch: tuple[int, ...]) -> None:
    a, b = weights(*batch)
    for eps in (EPS, np.float32(EPS), np.full(batch, EPS)):
        guess = model.predict(a, b, eps=eps)
        assert guess.f.shape == a.shape
        assert guess.g.shape == b.shape
    if a.size:
        expected = predictor("refined").predict(problem(*batch))
        np.testing.assert_allclose(guess.f, expected.f, atol=1e-6)
        np.testing.assert_allclose(guess.g, expected.g, atol=1e-6)
        found = DualPotentials(torch.from_numpy(guess.f), torch.from_numpy(guess.g))
        torch.testing.assert_close(plan(problem(*batch), found).sum(-2), torch.from_numpy(b), atol=1e-12, rtol=0)


def test_images_in_images_out(model: OnnxModel) -> None:
    a, b = weights(2)
    expected = model.predict(a, b, eps=EPS)
    images = model.predict(a.reshape(2, 6, 5), b.reshape(2, 6, 5), eps=EPS)
    np.testing.assert_array_equal(images.f, expected.f.reshape(2, 6, 5))
    solution = model.solve(a[0].reshape(6, 5), b[0].reshape(6, 5), eps=EPS)
    assert solution.f.shape == (6, 5)
    assert solution.converged.shape == ()


@pytest.mark.parametrize("eps", [EPS, torch.tensor([1e-2, 3e-2, 1e-1])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_problems_in_potentials_out(model: OnnxModel, eps: Any, dtype: torch.dtype) -> None:
    batch = problem(3, eps=eps).to(torch.zeros(0, dtype=dtype))
    guess = model.predict(batch)
    assert isinstance(guess, DualPotentials)
    assert guess.f.dtype == dtype
    known = predictor("refined")
    torch.testing.assert_close(guess.f, known.predict(batch).f, atol=1e-5, rtol=0)
    found, expected = (solve(batch, init=init, tol=1e-3) for init in (model, known))
    assert found.converged.all()
    assert torch.equal(found.steps, expected.steps)


def change(w: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    w[place] = value
    return w


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda a, b: (change(a, (1, 4), np.nan), b, EPS), "a must be finite, got a[1, 4] = nan"),
        (lambda a, b: (a, change(b, (0, 2), np.inf), EPS), "b must be finite, got b[0, 2] = inf"),
        (lambda a, b: (change(a, (2, 0), -0.5), b, EPS), "a must not be negative, got a[2, 0] = -0.5"),
        (lambda a, b: (a, b * [[1], [1], [0.5]], EPS), "b must sum to one, got sum b[2] = 0.5: divide"),
        (lambda a, b: (a[:, :29], b, EPS), "a must have the shape (*batch, 30), got (3, 29)"),
        (lambda a, b: (a[:2], b, EPS), "differ in their batch"),
        (lambda a, b: (a.astype(np.float16), b, EPS), "a must be float32 or float64, got float16"),
        (lambda a, b: (a, b, 0.5), "trained for eps in [0.01, 0.1], got eps = 0.5"),
        (lambda a, b: (a, b, np.array([EPS, 1e-3, EPS])), "got eps[1] = 0.001"),
        (lambda a, b: (a, b, np.nan), "eps must be positive and finite, got eps = nan"),
        (lambda a, b: (a, b, -1), "eps must be positive and finite, got eps = -1"),
        (lambda a, b: (a, b, [EPS]), "eps must be a number or of the batch's shape (3,), got (1,)"),
        (lambda a, b: (a, b, None), "say eps=..., a number in [0.01, 0.1]"),
    ],
)
def test_wrong_input_is_named(model: OnnxModel, wrong: Any, words: str) -> None:
    a, b, eps = wrong(*weights(3))
    for call in (model.predict, model.solve):
        with pytest.raises(ValueError, match=r".") as caught:
            call(a, b, eps=eps)
        assert words in str(caught.value)


def test_another_geometry_is_refused(model: OnnxModel) -> None:
    x, _ = Grid(6, 5).points
    for other in (
        Grid(5, 6),
        Grid(6, 5, cost="l1"),
        Points(2 * x, 2 * x),
        Dense(Grid(6, 5).cost_rows(slice(None)) * 1.01),
    ):
        with pytest.raises(ValueError, match="the model was trained on Grid"):
            model.predict(problem(2, geometry=other))
    assert model.predict(problem(2, geometry=Grid(torch.linspace(0, 1, 6), 5))).f.isfinite().all()


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
def test_solutions_are_what_they_say_at_every_temperature_by_turns(model: OnnxModel, tol: float) -> None:
    a, b = weights(3)
    for eps in (1e-2, 3e-2, 1e-1, 1e-2):
        solution = model.solve(a, b, eps=eps, tol=tol)
        assert solution.converged.all()
        assert (solution.error <= tol).all()
        potentials = DualPotentials(torch.tensor(solution.f), torch.tensor(solution.g))
        measured = marginal_error(problem(3, eps=eps), potentials)
        np.testing.assert_allclose(solution.error, measured, atol=1e-11)
        difference = solution.f - solve(problem(3, eps=eps), tol=1e-12).potentials.f.numpy()
        assert max(np.ptp(row[support]) for row, support in zip(difference, a > 0, strict=True)) <= 1e2 * tol


def test_a_solution_has_the_names_of_one_of_torch(model: OnnxModel) -> None:
    a, b = weights(3)
    for tol, max_steps in ((1e-9, 1000), (1e-15, 1)):
        found = model.solve(a, b, eps=[1e-2, 3e-2, 1e-1], tol=tol, max_steps=max_steps)
        known = problem(3, eps=torch.tensor([1e-2, 3e-2, 1e-1]))
        potentials = DualPotentials(found.f, found.g)
        np.testing.assert_allclose(found.cost(), transport_cost(known, potentials), rtol=1e-9)
        np.testing.assert_allclose(found.value, dual_value(known, potentials), rtol=1e-9)
        assert found.status == (Status.CONVERGED if max_steps > 1 else Status.MAX_STEPS)
        assert repr(found).startswith("Solution of 3 problems, 6 x 5 grid: ")
    single = model.solve(a[0].tolist(), b[0].reshape(6, 5), eps=np.float32(3e-2))
    assert single.value.shape == single.cost().shape == ()
    assert "1 converged" in repr(single)


def test_a_model_says_what_it_is_for(model: OnnxModel) -> None:
    assert model.geometry is not None
    assert model.geometry.matches(Grid(6, 5))
    words = r"OnnxModel for problems on Grid\(6, 5\) with cost 'sqeuclidean', eps from 0.01 to 0.1 \(.*\)"
    assert re.fullmatch(words, repr(model))
    a, b = weights(3)
    assert model.predict(Problem(a, b, model.geometry, EPS)).f.shape == (3, 30)
    with (
        unchecked(),
        pytest.raises(TypeError, match=r"weights a and b, got a ndarray .* alone"),
    ):
        model.predict(a)


def test_limits_are_kept(model: OnnxModel) -> None:
    a, b = weights(2)
    solution = model.solve(a, b, eps=1e-2, tol=1e-12, max_steps=2)
    assert (solution.steps <= 2).all()
    assert not solution.converged.any()
    for limits in ({"tol": 0.0}, {"max_steps": -1}):
        with pytest.raises(ValueError, match="must"):
            model.solve(a, b, eps=EPS, **limits)


def test_threads_share_a_model(model: OnnxModel) -> None:
    pairs = [weights(2, seed=seed) for seed in range(40)]
    expected = [model.predict(a, b, eps=EPS).f for a, b in pairs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: model.predict(*pair, eps=EPS).f, pairs))
    np.testing.assert_array_equal(found, expected)
