"""Maps in numpy are those of torch, from the same checkpoint; a file that holds more than tensors is refused."""

from collections import OrderedDict
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from metaot.alone import MapModel, linear_map, read_tensors
from metaot.alone.frame import FrameAlone
from metaot.alone.icnn import IcnnAlone
from metaot.amortize.maps import AmortizedMap, BuresStart
from metaot.brenier import Frame, Icnn, SampleProblem
from metaot.checkpoint import save
from metaot.models.palette import PaletteIcnn
from metaot.models.resnet import ResNetIcnn

SETTINGS = {
    "shipped": {"hidden": [64], "width": 48},
    "deep": {"hidden": [7, 6, 5], "features": 20, "width": 16, "depth": 3, "passes": 2},
    "softplus": {"hidden": [6, 5], "activation": "softplus", "features": 20, "width": 16, "passes": 0},
    "leaky": {"hidden": [9], "activation": "leaky_relu", "features": 20, "width": 16, "depth": 0},
}


def predictor(name: str, dim: int = 3) -> AmortizedMap:
    model = PaletteIcnn(dim, **SETTINGS[name]).float()
    for tensor in (*model.parameters(), model.encoder.mean, model.encoder.scale):
        tensor.data.add_(0.1 * torch.randn(tensor.shape))
    return AmortizedMap(model.eval().requires_grad_(False))


def clouds(dim: int = 3, n: int = 700) -> SampleProblem:
    x, y = torch.rand(2, n, dim)
    return SampleProblem(x.float(), y[: n // 2].square().float())


@pytest.mark.parametrize("dim", [1, 3, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_maps_as_with_torch(name: str, dim: int, tmp_path: Path) -> None:
    original, problem = predictor(name, dim), clouds(dim)
    save(original, tmp_path)
    expected = original.stages(problem)[-1]
    x, y = problem.x.numpy(), problem.y.numpy()
    found = MapModel.load(tmp_path).predict(x, y)
    np.testing.assert_allclose(found.push(x), expected.push(problem.x), atol=1e-5)
    np.testing.assert_allclose(found.pull(y), expected.pull(problem.y), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (1,), (1, 1)])
def test_one_problem_is_predicted_as_many_are(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    model, one = predictor("deep"), clouds().to(torch.empty(0, dtype=dtype))
    problem = SampleProblem(one.x.expand(*batch, -1, -1), one.y.expand(*batch, -1, -1))
    found, expected = model.predict(problem), model.stages(problem)[-1]
    assert found.phi.weights.shape == (*batch, model.model.icnn.count)
    assert found.phi.weights.dtype == found.psi.frame.scale.dtype == dtype
    for mine, theirs in ((found.phi, expected.phi), (found.psi, expected.psi)):
        torch.testing.assert_close(mine.weights, theirs.weights, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine.gradient(problem.x), theirs.gradient(problem.x), atol=1e-5, rtol=1e-4)


def test_it_follows_the_weights_and_gives_gradients_where_they_are_asked_for() -> None:
    model, problem = predictor("deep"), clouds()
    before = model.predict(problem).phi.weights
    model.model.base.data = model.model.base.data + 1.0
    after = model.predict(problem).phi.weights
    assert (after - before).abs().max() > 0.5
    torch.testing.assert_close(after, model.stages(problem)[-1].phi.weights, atol=1e-4, rtol=1e-4)
    model.model.requires_grad_(True)
    assert model.predict(problem).phi.weights.requires_grad
    with torch.no_grad():
        assert not model.predict(problem).phi.weights.requires_grad


@pytest.mark.parametrize("kind", ["grey", "one colour", "any"])
def test_the_frame_and_the_linear_map_are_those_of_torch(kind: str) -> None:
    x, y = torch.rand(2, 50, 3)
    x = x[:, :1].expand(-1, 3) if kind == "grey" else x[:1].expand(50, -1) if kind == "one colour" else x
    problem = SampleProblem(x, y)
    expected, found = Frame.gaussian(problem), FrameAlone.gaussian(x.numpy(), y.numpy())
    for name in ("m", "n", "U", "V", "scale"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)
    pair, linear = linear_map(x.numpy(), y.numpy()), BuresStart().predict(problem)
    np.testing.assert_allclose(pair.push(x.numpy()), linear.push(x), atol=1e-5)
    np.testing.assert_allclose(pair.pull(y.numpy()), linear.pull(y), atol=1e-5)


@pytest.mark.parametrize("activation", ["squareplus", "softplus", "leaky_relu"])
def test_gradients_are_those_of_the_network(activation: str) -> None:
    icnn = Icnn(2, (5, 4, 3), activation)
    weights, u = torch.randn(icnn.count), torch.randn(30, 2)
    found = IcnnAlone.of(icnn.hidden, activation, weights.numpy(), 2)(u.numpy())
    np.testing.assert_allclose(found, icnn.gradient(weights, u), atol=1e-12)


def test_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    whole = torch.randn(4, 5, 6)
    tensors = {
        "float32": whole.float(),
        "columns": whole[0].mT,
        "a part of another": whole[1:3, ::2, 1],
        "number": torch.tensor(3),
        "none": torch.empty(0, 3),
        "bools": whole[0] > 0,
        "float16": whole.half(),
    }
    for content in (tensors, OrderedDict(tensors)):
        torch.save(content, tmp_path / "model.pt")
        found = read_tensors(tmp_path / "model.pt")
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            expected = tensor.float() if tensor.dtype == torch.float16 else tensor
            np.testing.assert_array_equal(found[name], expected.numpy())
            assert found[name].dtype == expected.numpy().dtype


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for content in ({"a": 1}, [torch.ones(2)], torch.nn.Linear(2, 2), {"a": torch.ones(2, dtype=torch.complex64)}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="is no file of tensors"):
            read_tensors(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="is no file of tensors"):
        read_tensors(path)


def test_tensors_do_not_reach_beyond_their_numbers(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0)}, tmp_path / "a.pt")
    with ZipFile(tmp_path / "a.pt") as old, ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:-8] if name.endswith("data/0") else old.read(name))
    with pytest.raises(ValueError, match="is no file of tensors"):
        read_tensors(tmp_path / "b.pt")


def test_a_model_that_reads_pictures_is_refused(tmp_path: Path) -> None:
    save(AmortizedMap(ResNetIcnn(3, [4]).float()), tmp_path)
    with pytest.raises(ValueError, match="holds a 'ResNetIcnn', which reads no clouds"):
        MapModel.load(tmp_path)
