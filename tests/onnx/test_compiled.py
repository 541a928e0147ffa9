"""Networks as onnxruntime evaluates them: those of torch, for the weights that they were made from."""

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from damage import require_no_silent_change
from exports import predictor, resealed

import metaot
from metaot import Grid, Points, Problem
from metaot.amortize import AmortizedPotential, StagedPredictor
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import save, write_network
from metaot.onnx import write
from metaot.onnx.compiled import OnnxNetwork


def problem(known: StagedPredictor, batch: int = 3) -> Problem:
    geometry = known.geometry if isinstance(known, AmortizedPotential) else Grid(6, 5)
    a, b = (torch.rand(batch, n, dtype=torch.float64).softmax(-1) for n in geometry.shape)
    return Problem(a, b, geometry, torch.linspace(2e-2, 5e-2, batch, dtype=torch.float64))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small universal model with its network."""
    torch.set_default_dtype(torch.float64)
    folder = tmp_path_factory.mktemp("run")
    save(predictor("universal"), folder, compact=True)
    assert write_network(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    ["refined", "perceptron", "modal", *(pytest.param(k, marks=pytest.mark.slow) for k in ("cube", "grouped"))],
)
def test_a_written_network_is_the_network(name: str, tmp_path: Path) -> None:
    known = predictor(name)
    if name == "perceptron":
        known = AmortizedPotential(known.model, known.geometry, (2e-2, 5e-2))
    save(known, tmp_path)
    assert metaot.load(tmp_path).fast is None
    assert write_network(tmp_path)
    loaded = metaot.load(tmp_path)
    for batch in (1, 2, 7):
        case = problem(known, batch)
        assert loaded._network(case) is not loaded.model
        for mine, theirs in zip(loaded.stages(case), known.stages(case), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("geometry", [Grid(6, 5), Grid(70, 64), Points(torch.rand(8, 2), torch.rand(9, 2) + 1)])
def test_one_file_serves_all_grids_and_clouds(geometry: Grid | Points, run: Path) -> None:
    loaded = metaot.load(run)
    plain = UniversalPotential(loaded.model, loaded.eps)
    for batch in (1, 4):
        a, b = (torch.rand(batch, n, dtype=torch.float64).softmax(-1) for n in geometry.shape)
        case = Problem(a, b, geometry, 1e-2)
        assert loaded._network(case) is not loaded.model
        for mine, theirs in zip(loaded.stages(case), plain.stages(case), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loaded.warm_start(case), plain.warm_start(case), atol=1e-5, rtol=1e-5)


def test_other_weights_are_evaluated_by_torch(run: Path) -> None:
    loaded, case = metaot.load(run), problem(predictor("universal"))
    before = loaded.predict(case).f
    kept = copy.deepcopy(loaded.model.state_dict())
    with torch.no_grad():
        loaded.model.outputs.weight.mul_(2)
    assert loaded._network(case) is loaded.model
    assert (loaded.predict(case).f - before).abs().max() > 1e-5
    loaded.model.load_state_dict(kept)
    assert loaded._network(case) is not loaded.model
    torch.testing.assert_close(loaded.predict(case).f, before)
    loaded.model.bfloat16().float()
    assert loaded._network(case) is loaded.model


def test_who_takes_derivatives_gets_torch(run: Path) -> None:
    loaded, case = metaot.load(run), problem(predictor("universal"))
    eps = case.eps.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        loaded.predict(Problem(case.a, case.b, case.geometry, eps)).f.square().sum(), eps
    )
    assert (slope != 0).all()
    loaded.model.requires_grad_(True)
    loaded.stages(case)[0].sum().backward()
    assert loaded.model.inputs.weight.grad is not None
    with torch.no_grad():
        assert loaded._network(case) is not loaded.model


def test_saving_other_weights_removes_the_network(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    other = predictor("universal")
    other.model.outputs.weight.mul_(2)
    save(other, folder)
    assert not list(folder.glob("*.onnx"))
    for file in run.glob("*.onnx"):
        shutil.copy(file, folder)
    with pytest.raises(ValueError, match=r"network\.onnx was made from other weights"):
        metaot.load(folder)


def test_files_that_do_not_belong_together_are_refused(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    proto = onnx.load(folder / "network.onnx")
    proto.metadata_props[0].value = "0" * 64
    for content, words in (
        (resealed(proto), r"correction\.onnx that belongs to"),
        ((folder / "correction.onnx").read_bytes(), r"not the network\.onnx"),
        (b"nothing", r"network\.onnx was not written by metaot"),
    ):
        (folder / "network.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            metaot.load(folder)
    (folder / "network.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"network\.onnx is missing"):
        metaot.load(folder)


@pytest.mark.parametrize("name", ["network.onnx", "correction.onnx"])
def test_a_single_change_is_refused(name: str, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    case = problem(predictor("universal"))

    def answer() -> np.ndarray:
        return metaot.load(folder).predict(case).f.numpy()

    assert require_no_silent_change(folder / name, answer, 50) == 50


def test_a_network_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(predictor("perceptron"), tmp_path)
    monkeypatch.setattr(write, "_DIFFERENCE", -1.0)
    with pytest.raises(ValueError, match="differs from torch"):
        write_network(tmp_path)
    assert not list(tmp_path.glob("*.onnx*"))


def test_it_pickles_and_serves_threads(run: Path) -> None:
    loaded = metaot.load(run)
    cases = [problem(loaded, batch) for batch in (1, 2, 3)] * 5
    expected = [loaded.predict(case).f for case in cases]
    for again in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert isinstance(again.fast, OnnxNetwork)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda case, again=again: again.predict(case).f, cases))
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
