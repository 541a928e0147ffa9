"""The model that reads costs as one file: any sizes, any costs, without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import predictor

from metaot import Dense, OnnxModel, Points, Problem, solve

Array = np.ndarray
KINDS = ["any", "equal weights", "forbidden pairs", "both", "no mass"]


@pytest.fixture(scope="session")
def model(exported: Callable[[str], Path]) -> OnnxModel:
    return OnnxModel(exported("costs") / "model.onnx")


def drawn(kind: str, *batch: int, n: int = 12, m: int = 70) -> tuple[Array, Array, Array]:
    """Draw distances in the plane, of which some are infinite."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((*batch, size)) ** 2 + 1e-3 for size in (n, m))
    x, y = rng.random((*batch, n, 1, 2)), rng.random((*batch, 1, m, 2))
    C = np.linalg.norm(x - y, axis=-1)
    if kind in ("equal weights", "both"):
        a[:], b[:] = 1, 1
    if kind in ("forbidden pairs", "both"):
        C[rng.random(C.shape) < 0.1] = np.inf
        C[..., 0], C[..., 0, :] = 1, 1
    if kind == "no mass":
        a[..., 3:6] = b[..., 5:9] = 0
        C[..., 5] = np.inf
    return a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True), C


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "n", "m"), [((), 12, 70), ((2, 2), 3, 5), ((3,), 9, 8), ((1,), 2, 40)])
def test_files_say_what_torch_says(model: OnnxModel, kind: str, batch: tuple[int, ...], n: int, m: int) -> None:
    """Also for fewer atoms than the network can see."""
    if kind == "no mass" and n < 9:
        n, m = 9, 11
    a, b, C = drawn(kind, *batch, n=n, m=m)
    eps = np.geomspace(0.02, 0.05, a[..., 0].size).reshape(batch)
    found = model.predict(a, b, C=C, eps=eps)
    expected = predictor("costs").predict(Problem(a, b, C, eps))
    for mine, theirs in ((found.f, expected.f), (found.g, expected.g)):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=2e-6)


def test_another_order_of_equal_atoms_gives_the_same_potentials(model: OnnxModel) -> None:
    a, b, C = drawn("equal weights")
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(12), rng.permutation(70)
    found, turned = model.predict(a, b, C=C, eps=0.03), model.predict(a, b, C=C[rows][:, columns], eps=0.03)
    np.testing.assert_allclose(turned.f, found.f[rows], atol=1e-6)
    np.testing.assert_allclose(turned.g, found.g[columns], atol=1e-6)


def test_solve_goes_on_from_the_prediction(model: OnnxModel, back_end: str) -> None:
    """With a matrix for each problem, and with one for all; no mass goes where it may not."""
    a, b, C = drawn("forbidden pairs", 3)
    found = model.solve(a, b, C=C, eps=0.03, tol=1e-10)
    exact = solve(Problem(a, b, C, 0.03), tol=1e-10)
    assert found.converged.all()
    np.testing.assert_allclose(found.value, exact.value.numpy(), atol=1e-9)
    np.testing.assert_allclose(found.cost(), exact.cost().numpy(), atol=1e-9)
    shared = model.solve(a, b, C=C[1], eps=0.03, tol=1e-10)
    np.testing.assert_allclose(shared.f[1], found.f[1], atol=1e-7)
    np.testing.assert_allclose(shared.cost()[1], found.cost()[1], atol=1e-9)


def test_large_batches_are_taken_in_parts(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, C = drawn("any", 5)
    each, shared = model.predict(a, b, C=C, eps=0.03), model.predict(a, b, C=C[0], eps=0.03)
    monkeypatch.setattr("metaot.onnx.runtime._TERMS", 2 * C[0].size)
    np.testing.assert_allclose(model.predict(a, b, C=C, eps=0.03).f, each.f, atol=1e-6)
    np.testing.assert_allclose(model.predict(a, b, C=C[0], eps=0.03).g, shared.g, atol=1e-6)
    assert model.predict(a[:0], b[:0], C=C[0], eps=0.05).f.shape == (0, 12)
    with pytest.raises(ValueError, match=r"eps in problem \[3\]"):
        model.predict(a, b, C=C, eps=[0.03, 0.03, 0.03, 1e-9, 0.03])


@pytest.mark.parametrize("eps", [1e-6, 1e3])
def test_problems_unlike_those_of_the_training_are_refused_as_by_torch(model: OnnxModel, eps: float) -> None:
    a, b, C = drawn("any")
    with pytest.raises(ValueError, match=r"differ by 0.01 to 1e\+03 eps") as expected:
        predictor("costs").predict(Problem(a, b, C, eps))
    for call in (model.predict, model.solve):
        with pytest.raises(ValueError, match="times") as found:
            call(a, b, C=C, eps=eps)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"C": lambda C: C[0]}, r"C must have the shape \(n, m\)"),
        ({"C": lambda C: C.T}, "weights of sizes .12, 70. do not fit the geometry of sizes .70, 12.: exchange"),
        ({"C": lambda C: C[None]}, "a batch .. of weights does not fit a batch .1,. of geometries"),
        ({"C": lambda C: C * np.where(C[3, 4] < C, 1, np.nan)}, r"or \+inf for a forbidden pair, got C\[0, "),
        ({"C": lambda C: C - np.inf}, r"or \+inf for a forbidden pair, got C\[0, 0\] = -inf"),
        ({"C": lambda _: None}, "the model reads costs"),
        ({"eps": lambda _: None}, "say eps"),
        ({"eps": lambda _: -1.0}, "eps must be positive and finite, got eps = -1"),
        ({"b": lambda b: 2 * b}, "b must sum to one"),
        ({"b": lambda b: b[None]}, "differ in their batch"),
    ],
)
def test_bad_input_is_refused(model: OnnxModel, change: dict[str, Callable[[Any], Any]], words: str) -> None:
    given: dict[str, Any] = dict(zip("abC", drawn("any"), strict=True)) | {"eps": 0.03}
    given |= {name: function(given[name]) for name, function in change.items()}
    with pytest.raises(ValueError, match=words):
        model.predict(**given)


def test_other_models_read_no_costs(written: Path) -> None:
    with pytest.raises(ValueError, match="knows its costs"):
        OnnxModel(written).predict(np.full(30, 1 / 30), np.full(30, 1 / 30), C=np.ones((30, 30)), eps=0.05)


def test_problems_on_any_geometry_are_predicted(model: OnnxModel) -> None:
    a, b, C = map(torch.from_numpy, drawn("any", 2))
    x, y = torch.rand(12, 2), torch.rand(70, 2)
    cloud = Points(x, y, "euclidean")
    found = model.predict(Problem(a, b, cloud, 0.03))
    matrix = cloud.cost_rows(slice(None)).numpy()
    np.testing.assert_array_equal(found.f, model.predict(a.numpy(), b.numpy(), C=matrix, eps=0.03).f)
    assert solve(Problem(a, b, Dense(C), 0.03), init=model, tol=1e-8).converged.all()
    assert model.sizes is None
    assert model.geometry is None
    assert model.spreads == (0.01, 1e3)
    assert "any cost matrices whose entries differ by 0.01 to 1e+03 eps" in repr(model)
