"""`OnnxModel`: numpy in, numpy out, nothing wrong goes through; alone, in threads and in other processes."""

import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exports import predictor, run_without_torch

from metaot import Dense, Grid, Points, solve
from metaot.geometry import Geometry
from metaot.onnx import OnnxModel
from metaot.potentials import DualPotentials, marginal_error
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


def test_images_in_images_out(model: OnnxModel) -> None:
    a, b = weights(2)
    expected = model.predict(a, b, eps=EPS)
    images = model.predict(a.reshape(2, 6, 5), b.reshape(2, 6, 5), eps=EPS)
    np.testing.assert_array_equal(images.f, expected.f.reshape(2, 6, 5))
    solution = model.solve(a[0].reshape(6, 5), b[0].reshape(6, 5), eps=EPS)
    assert solution.f.shape == (6, 5)
    assert solution.converged.shape == ()


def test_single_precision_stays_single(model: OnnxModel) -> None:
    a, b = weights(2)
    guess = model.predict(a.astype(np.float32), b.astype(np.float32), eps=EPS)
    assert guess.f.dtype == guess.g.dtype == np.float32
    np.testing.assert_allclose(guess.f, model.predict(a, b, eps=EPS).f, atol=1e-5)


def test_the_target_marginal_of_a_prediction_is_exact(model: OnnxModel) -> None:
    a, b = weights(4)
    guess = model.predict(a, b, eps=EPS)
    C = Grid(6, 5).cost_rows(slice(None)).numpy()
    P = a[:, :, None] * b[:, None, :] * np.exp((guess.f[:, :, None] + guess.g[:, None, :] - C) / EPS)
    np.testing.assert_allclose(P.sum(1), b, atol=1e-12)


@pytest.mark.parametrize("eps", [EPS, torch.tensor([1e-2, 3e-2, 1e-1])])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_problems_in_potentials_out(model: OnnxModel, eps: Any, dtype: torch.dtype) -> None:
    batch = problem(3, eps=eps).to(torch.zeros(0, dtype=dtype))
    guess = model.predict(batch)
    assert isinstance(guess, DualPotentials)
    assert guess.f.dtype == dtype
    torch.testing.assert_close(guess.f, predictor("refined").predict(batch).f, atol=1e-5, rtol=0)
    assert solve(batch, init=model, tol=1e-3).converged.all()


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
        (lambda a, b: ((a > 0).astype(int), b, EPS), "a must be float32 or float64, got int64"),
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


@pytest.mark.parametrize("eps", [1e-2, 1e-1])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
def test_solutions_are_what_they_say(model: OnnxModel, eps: float, tol: float) -> None:
    a, b = weights(3)
    solution = model.solve(a, b, eps=eps, tol=tol)
    assert solution.converged.all()
    assert (solution.error <= tol).all()
    potentials = DualPotentials(torch.tensor(solution.f), torch.tensor(solution.g))
    measured = marginal_error(problem(3, eps=eps), potentials)
    np.testing.assert_allclose(solution.error, measured, atol=1e-11)
    expected = solve(problem(3, eps=eps), tol=1e-12).potentials.f
    support = a > 0
    difference = solution.f - expected.numpy()
    for k in range(3):
        assert np.ptp(difference[k][support[k]]) <= 1e2 * tol


def test_many_temperatures_by_turns(model: OnnxModel) -> None:
    """What is kept of one temperature is not taken for another one."""
    a, b = weights()
    for eps in 2 * [float(e) for e in np.linspace(1e-2, 1e-1, 10)]:
        solution = model.solve(a, b, eps=eps, tol=1e-9)
        found = DualPotentials(torch.from_numpy(solution.f), torch.from_numpy(solution.g))
        assert float(marginal_error(problem(eps=eps), found)) <= 2e-9


def test_solve_takes_an_exported_model_as_start(model: OnnxModel) -> None:
    start, expected = problem(3), solve(problem(3), init=predictor("refined"), tol=1e-6)
    found = solve(start, init=model, tol=1e-6)
    assert bool(found.converged.all())
    assert torch.equal(found.steps, expected.steps)


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


def _predict(model: OnnxModel) -> np.ndarray:
    return model.predict(*weights(2), eps=EPS).f


def test_a_model_is_sent_to_another_process(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.onnx"
    path.write_bytes(written.read_bytes())
    model = OnnxModel(path)
    path.unlink()
    np.testing.assert_array_equal(_predict(pickle.loads(pickle.dumps(model))), _predict(model))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(_predict, model).result(), _predict(model))


def test_it_runs_without_torch(written: Path) -> None:
    code = """if True:
        import numpy as np, metaot
        model = metaot.load(sys.argv[1])
        a = np.full((2, 30), 1 / 30)
        solution = model.solve(a, a[:, ::-1], eps=0.02)
        assert solution.converged.all() and np.abs(model.predict(a, a, eps=0.02).f).max() < 10
        """
    run_without_torch(code, written)


def _without_metadata(proto: onnx.ModelProto) -> None:
    del proto.metadata_props[:]


def _of_format_99(proto: onnx.ModelProto) -> None:
    next(entry for entry in proto.metadata_props if entry.key == "metaot").value = '{"format": "99"}'


def _with_a_custom_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "my.domain"


def _with_external_data(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_without_metadata, "was not written by metaot"),
        (_of_format_99, "format '99'"),
        (_with_a_custom_node, "my.domain"),
        (_with_external_data, "onnxruntime cannot open"),
    ],
)
def test_files_that_are_not_ours_are_refused(written: Path, tamper: Any, words: str) -> None:
    proto = onnx.load(written)
    tamper(proto)
    with pytest.raises(ValueError, match=words):
        OnnxModel.from_bytes(proto.SerializeToString())


def test_files_that_are_no_models_are_refused(written: Path, tmp_path: Path) -> None:
    whole, path = written.read_bytes(), tmp_path / "file.onnx"
    cut_short = [whole[: int(share * len(whole))] for share in (0.2, 0.5, 0.9, 0.999)]
    for content in (b"", b"hello", b"\x00" * 64, b"PK\x03\x04" * 30, *cut_short):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"onnxruntime cannot open .*file\.onnx|file\.onnx was not written"):
            OnnxModel(path)


def test_arguments_of_the_model_are_checked(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"export\.py"):
        OnnxModel(tmp_path / "nowhere.onnx")
    with pytest.raises(ValueError, match="providers must be of"):
        OnnxModel(written, providers=["NoSuchProvider"])
    with pytest.raises(ValueError, match="threads"):
        OnnxModel(written, threads=0)
