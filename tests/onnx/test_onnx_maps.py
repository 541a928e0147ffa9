"""Files of a model of maps say what the model says, without torch; what does not fit is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import predictor, run_without_torch

from metaot.brenier import Frame, SampleProblem
from metaot.checkpoint import load, save
from metaot.onnx import OnnxMap
from metaot.onnx.graph.hypernetwork import schulz_roots
from metaot.onnx.maps import map_beside
from metaot.pictures import moved, palette
from metaot.tools.recolor import palette_maps


@pytest.fixture
def run(exported: Callable[[str], Path]) -> Path:
    """A checkpoint of a small model, with its network as ONNX beside the weights."""
    return exported("maps")


@pytest.fixture
def written(run: Path) -> Path:
    return run / "model.onnx"


def clouds(*batch: int, n: int = 60, m: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.random((*batch, n, 3), np.float32), draw.random((*batch, m, 3), np.float32) ** 2


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)])
def test_it_sends_points_where_torch_does(written: Path, batch: tuple[int, ...]) -> None:
    x, y = clouds(*batch)
    found = OnnxMap(written).predict(x, y)
    expected = predictor("maps").predict(SampleProblem(torch.tensor(x), torch.tensor(y)))
    assert found.phi.shape == expected.phi.weights.shape
    np.testing.assert_allclose(found.push(x), expected.push(torch.tensor(x)), atol=1e-5)
    np.testing.assert_allclose(found.pull(y[..., :7, :]), expected.pull(torch.tensor(y[..., :7, :])), atol=1e-5)


def test_pictures_are_recoloured_as_with_torch(written: Path) -> None:
    draw = np.random.default_rng(1)
    source = draw.integers(30, 220, (40, 30, 4), np.uint8)
    target = (draw.random((20, 50, 3)) ** 2 * 255).astype(np.uint8)
    expected = moved(source, palette_maps(palette(source), palette(target), predictor("maps")).push)
    result = OnnxMap(written).recolor(source, target)
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1
    np.testing.assert_array_equal(result[..., 3], source[..., 3])
    with pytest.raises(ValueError, match="uint8 of shape"):
        OnnxMap(written).recolor(source / 255, target)


def test_the_roots_by_products_are_those_by_eigenvalues() -> None:
    Q = torch.linalg.qr(torch.randn(5, 4, 4)).Q
    values = torch.tensor([1.0, 1e-3, 1e-6, 1e-9])
    root, inverse = schulz_roots(Q @ torch.diag(values) @ Q.mT * 1e3)
    expected = Q @ torch.diag(values.sqrt()) @ Q.mT * 1e3**0.5
    torch.testing.assert_close(root, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse @ expected, torch.eye(4).expand(5, 4, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_checkpoint_predicts_one_pair_by_its_file(run: Path, batch: tuple[int, ...], dtype: torch.dtype) -> None:
    model, (x, y) = load(run), (torch.tensor(z).to(dtype) for z in clouds(*batch))
    problem = SampleProblem(x, y)
    used = []
    model._exported = (lambda *z: used.append(1) or OnnxMap(run / "model.onnx").weights(*z), model._exported[1])
    found, expected = model.predict(problem), model.stages(problem)[-1]
    assert used
    assert found.phi.weights.shape == (*batch, model.model.icnn.count)
    assert found.phi.weights.dtype == found.psi.frame.scale.dtype == dtype
    torch.testing.assert_close(found.push(x), expected.push(x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.pull(y), expected.pull(y), atol=1e-5, rtol=1e-4)


def test_a_checkpoint_follows_its_weights_and_gives_gradients(run: Path) -> None:
    model, (x, y) = load(run), map(torch.tensor, clouds())
    problem = SampleProblem(x, y)
    before = model.predict(problem).phi.weights
    with torch.no_grad():
        model.model.base.add_(1.0)
    after = model.predict(problem).phi.weights
    assert (after - before).abs().max() > 0.5
    torch.testing.assert_close(after, model.stages(problem)[-1].phi.weights)
    model.model.requires_grad_(True)
    assert model.predict(problem).phi.weights.requires_grad


def test_a_file_of_other_weights_is_not_used(run: Path, tmp_path: Path) -> None:
    assert map_beside(run) is not None
    assert map_beside(tmp_path) is None
    shutil.copytree(run, tmp_path / "run")
    other = predictor("maps")
    other.model.base.data.mul_(1.5)
    save(other, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.onnx"))
    for file in run.glob("*.onnx"):
        shutil.copy(file, tmp_path / "run")
    with pytest.raises(ValueError, match=r"model\.onnx was made from other weights .*: `metaot export"):
        load(tmp_path / "run")


@pytest.mark.parametrize("kind", ["grey", "one colour", "any"])
def test_the_frame_of_the_graph_is_that_of_the_model(kind: str) -> None:
    x, y = torch.rand(2, 50, 3)
    x = x[:, :1].expand(-1, 3) if kind == "grey" else x[:1].expand(50, -1) if kind == "one colour" else x
    problem = SampleProblem(x[None], y[None])
    expected, found = Frame.gaussian(problem), Frame.gaussian(problem, schulz_roots)
    for name in ("m", "n", "U", "V", "scale"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)


def test_wrong_input_is_named(written: Path) -> None:
    model, (x, y) = OnnxMap(written), clouds(2)
    broken = x.copy()
    broken[1, 3, 0] = np.nan
    for wrong, words in (
        ((broken, y), "x must be finite, got x[1, 3, 0] = nan"),
        ((x, y[:1]), "differ in their batch"),
        ((x[..., :2], y), "x must have the shape (*batch, samples, 3), got (2, 60, 2)"),
        ((x, y[:, :1]), "y must have the shape (*batch, samples, 3), got (2, 1, 3)"),
        ((x.astype(np.float16), y), "float16"),
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            model.predict(*wrong)
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="x must have the shape"):
        model.predict(x, y).push(x[0])


def test_the_command_recolours_with_a_file_and_without_torch(written: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    colours = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    for name, pixels in zip(("source", "target"), colours, strict=True):
        image.fromarray(pixels).save(tmp_path / f"{name}.png")
    code = """if True:
        from metaot.cli import main
        source, target, out, model = sys.argv[1:]
        sys.exit(main(["recolor", source, target, "-o", out, "--strip", "--model", model]))
        """
    run_without_torch(code, *(tmp_path / f"{name}.png" for name in ("source", "target", "out")), written)
    assert (tmp_path / "out.png").exists()
