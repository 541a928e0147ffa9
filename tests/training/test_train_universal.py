"""Training of the universal model: on grids of changing sizes, saved, resumed and loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import metaot
from metaot import Grid, Problem
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import located, read_card
from metaot.cli import main
from metaot.data import Drawings
from metaot.recipes import RECIPES
from metaot.training import Recipe, train


def tiny(steps: int) -> Recipe:
    return replace(
        RECIPES["universal"](),
        data=Drawings(batch=12, eps=(2e-2, 1e-1), sides=(8, 10)),
        model_settings={"modes": 6, "width": 16, "hidden": 16, "depth": 1, "correction": 8, "passes": 1},
        steps=steps,
        warmup=5,
        average=0.9,
        validation_batch=8,
    )


def test_it_learns_and_goes_on_exactly_where_it_stopped(tmp_path: Path, networks: list[Path]) -> None:
    train(tiny(60), tmp_path / "whole", progress=False)
    assert networks == [tmp_path / "whole"]
    train(tiny(60), tmp_path / "parts", stop_at=25, progress=False)
    assert len(networks) == 1
    early = read_card(tmp_path / "parts")["validation"]["dual_gap"]
    train(tiny(60), tmp_path / "parts", resume=True, progress=False)
    whole, parts = (torch.load(tmp_path / name / "model.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert read_card(tmp_path / "whole")["validation"]["dual_gap"] < early


def test_a_loaded_model_predicts_at_any_size(tmp_path: Path, generator: torch.Generator) -> None:
    train(tiny(2), tmp_path, progress=False)
    predictor = metaot.load(tmp_path)
    assert isinstance(predictor, UniversalPotential)
    assert torch.load(tmp_path / "model.pt")["model.inputs.weight"].dtype == torch.float16
    for sizes in ((5, 5), (12, 7)):
        a, b = torch.rand(2, sizes[0] * sizes[1], generator=generator).softmax(-1)
        assert predictor.predict(Problem(a, b, Grid(*sizes), 0.05)).f.shape == a.shape


def test_evaluate_measures_it_on_files_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: torch.Generator
) -> None:
    import numpy as np  # noqa: PLC0415

    train(tiny(2), tmp_path / "run", progress=False)
    np.savez(tmp_path / "own.npz", images=np.full((4, 6, 6), 9, dtype=np.uint8) + np.eye(6, dtype=np.uint8))
    arguments = ["--data", str(tmp_path / "own.npz"), "--resolution", "6,9", "--eps", "1e-1,5e-2"]
    assert main(["evaluate", str(tmp_path / "run"), *arguments, "--instances", "2", "--newton", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("own.npz 6 x 6", "own.npz 9 x 9", "0.05", "model"))
    assert (tmp_path / "run" / "evaluation" / "evaluation.json").exists()


def test_a_name_is_a_shipped_checkpoint_unless_a_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("mnist") == Path(metaot.__file__).parents[1] / "checkpoints" / "mnist"
    with pytest.raises(FileNotFoundError, match="nothing is not a checkpoint"):
        metaot.load("nothing")
    (tmp_path / "mnist").mkdir()
    assert located("mnist") == Path("mnist")
