"""A file says what its model says; what it cannot say, it does not become."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from exports import grouped, predictor

import metaot
from metaot.amortize.maps import AmortizedMap
from metaot.checkpoint import save
from metaot.cli import main
from metaot.data import Sphere
from metaot.models.paper import ResNetIcnn
from metaot.onnx import OnnxModel
from metaot.onnx.export import prediction_model
from metaot.onnx.parity import drawn_problems, parity

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cube", "spectral", "low", "line")]


@pytest.mark.parametrize("name", ["perceptron", "modal", *SLOW])
def test_a_file_agrees_with_its_model(name: str) -> None:
    guess = predictor(name)
    model = OnnxModel.from_bytes(prediction_model(guess, {"model": {}}))
    result = parity(model, guess, *drawn_problems(guess, {}))
    assert result.holds, result


def test_the_network_of_few_suppliers_agrees_also_where_they_have_nothing() -> None:
    sphere = Sphere(batch=5, suppliers=20, customers=900, world="synthetic", eps=(1e-3, 1e-3)).split("test")
    settings = {"groups": 32, "fine": 64, "width": 16, "hidden": 16}
    guess, problem = (
        grouped(sphere.geometry, (1e-3, 1e-3), passes=0, **settings),
        sphere.sample(torch.Generator().manual_seed(0)),
    )
    model = OnnxModel.from_bytes(prediction_model(guess, {"model": {}}))
    torch.testing.assert_close(vars(model.predict(problem)), vars(guess.predict(problem)), atol=1e-5, rtol=0)
    one = model.solve(problem.a[0].numpy(), problem.b[0].numpy(), eps=1e-3, tol=1e-9)
    assert one.error <= 1e-9
    with pytest.raises(ValueError, match="--passes 0"):
        prediction_model(grouped(sphere.geometry, (1e-3, 1e-3), passes=3, **settings), {"model": {}})


def test_networks_that_read_pictures_are_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(AmortizedMap(ResNetIcnn(3, [4]).float()), tmp_path / "pictures")
    assert main(["export", str(tmp_path / "pictures"), "--out", str(tmp_path / "a.onnx")]) == 2
    assert "reads pictures" in capsys.readouterr().err


def test_the_file_describes_its_model(written: Path, exported: Callable[[str], Path]) -> None:
    content = written.read_bytes()
    proto = onnx.load_from_string(content)
    assert [value.name for value in proto.graph.input] == ["a", "b", "eps"]
    assert [value.name for value in proto.graph.output][:2] == ["f", "g"]
    assert {opset.domain for opset in proto.opset_import} == {""}
    model = OnnxModel(written)
    assert model.sizes == (30, 30)
    assert model.eps == (1e-2, 1e-1)
    assert model.metadata["quality"] == {"validation": {"steps_saved": 3.0}}
    assert len(model.metadata["geometry"]["sha256"]) == 64
    assert model.metadata["metaot"]["version"] == metaot.__version__
    assert b"/" + Path(__file__).parts[1].encode() + b"/" not in content
    assert metaot.load(exported("maps") / "model.onnx").metadata["maps"]["step"] == 7
