"""A file says what its model says; what it cannot say, it does not become."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from exports import CARD, grouped, predictor

import metaot
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import save
from metaot.cli import main
from metaot.data import Sphere
from metaot.onnx import OnnxModel
from metaot.onnx import export as module
from metaot.onnx.export import prediction_model
from metaot.onnx.parity import parity
from metaot.problem import Problem


def problems(guess: AmortizedPotential, *temperatures: float | None) -> list[Problem]:
    """Draw a batch with zeros at each temperature, mixed ones for None, in sizes that are not traced."""
    generator = torch.Generator().manual_seed(2)
    (n, m), (low, high) = guess.geometry.shape, guess.eps
    batches = []
    for batch, eps in enumerate(temperatures, 1):
        a, b = (torch.rand(batch, size, generator=generator) for size in (n, m))
        a, b = (weights * (weights > 0.3) for weights in (a, b))
        mixed = torch.rand(batch, generator=generator) * (high - low) + low
        a, b = (weights / weights.sum(-1, keepdim=True) for weights in (a, b))
        batches.append(Problem(a, b, guess.geometry, mixed if eps is None else eps))
    return batches


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cube", "spectral", "low", "line")]


@pytest.mark.parametrize("name", ["refined", "perceptron", *SLOW])
def test_a_file_agrees_with_its_model(name: str, written: Path) -> None:
    guess = predictor(name)
    content = written.read_bytes() if name == "refined" else prediction_model(guess, CARD)
    (low, high), model = guess.eps, OnnxModel.from_bytes(content)
    result = parity(model, guess, problems(guess, low, high, None, (low * high) ** 0.5), "random problems")
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


def test_a_file_that_differs_is_noticed(written: Path) -> None:
    guess = predictor("refined")
    next(iter(guess.model.parameters())).data.mul_(1.001)
    result = parity(OnnxModel(written), guess, problems(guess, 3e-2), "random problems")
    assert not result.holds
    assert f"{result.difference:.1e} of their range" in str(result)


def test_the_file_describes_its_model(written: Path) -> None:
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


def test_the_command_writes_nothing_when_the_file_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = predictor("perceptron")
    save(AmortizedPotential(guess.model, guess.geometry, guess.eps), tmp_path / "run")
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["geometry"]["kind"] == "Points"
    out = tmp_path / "model.onnx"
    right = prediction_model(guess, card)
    monkeypatch.setattr(module, "prediction_model", lambda *_: right)
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 0
    assert "no steps differ" in capsys.readouterr().out
    out.unlink()
    guess.model.layers[0][0].weight.data.mul_(1.01)
    save(guess, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(out)]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.glob("model.onnx*"))
