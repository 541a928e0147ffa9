"""Training of hypernetworks: it learns, resumes exactly, and its checkpoints load."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metaot
from metaot.amortize.maps import AmortizedMap
from metaot.checkpoint import read_card, write_network
from metaot.cli import main
from metaot.data import Paintings, Palettes, Planted, Shapes
from metaot.models.paper import ResNetIcnn
from metaot.onnx.maps import fingerprint
from metaot.recipes import RECIPES
from metaot.training import Recipe, train
from metaot.training.continuous import _recoloured


def tiny(steps: int) -> Recipe:
    return replace(
        RECIPES["palette"](),
        data=Palettes(batch=4, samples=64),
        model_settings={"hidden": [16], "features": 32, "width": 32, "depth": 1},
        steps=steps,
        warmup=5,
        average=0.9,
        validation_batch=3,
    )


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    train(tiny(12), tmp_path / "whole", progress=False)
    train(tiny(12), tmp_path / "parts", stop_at=5, progress=False)
    train(tiny(12), tmp_path / "parts", resume=True, progress=False)
    whole, parts = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_command_ends_with_the_network_as_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    written = []

    def export_maps(predictor, card, path, *, weights, data_dir):
        written.append((path, weights, card["step"]))

    monkeypatch.setattr("metaot.training.loop.write_network", write_network)
    monkeypatch.setattr("metaot.onnx.export_maps.export_maps", export_maps)
    settings = ("steps=2", "data.batch=2", "validation_batch=2", "model_settings.features=16")
    command = ["train", "palettes", "--out", str(tmp_path), "--quiet", *(f"--set={each}" for each in settings)]
    assert main([*command, "--stop-at", "1"]) == 0
    assert written == []
    assert main([*command, "--resume"]) == 0
    assert written == [(tmp_path / "model.onnx", fingerprint(tmp_path), 2)]


def test_seconds_of_training_beat_the_linear_map(tmp_path: Path) -> None:
    data = Planted(batch=8, samples=64, dim=2, gaussians=0.0)
    settings = {"hidden": [16], "features": 64, "width": 64, "depth": 1, "passes": 0}
    recipe = replace(tiny(150), data=data, model_settings=settings, learning_rate=5e-3, validation_batch=6)
    train(replace(recipe, steps=1, learning_rate=1e-9), tmp_path / "none", progress=False)
    train(recipe, tmp_path / "some", progress=False)
    before, after = (read_card(tmp_path / name)["validation"] for name in ("none", "some"))
    assert set(after) == {"value", "worst_value", "cycle"}
    assert after["value"] > before["value"] + 0.2 * (1 - before["value"])
    assert after["value"] < 1


def test_a_loaded_model_predicts_the_same(tmp_path: Path) -> None:
    train(tiny(3), tmp_path, progress=False)
    problem = Palettes(batch=2, samples=50).split("test").sample(torch.Generator())
    first, again = (metaot.load(tmp_path).predict(problem) for _ in range(2))
    assert torch.equal(first.push(problem.x), again.push(problem.x))
    assert read_card(tmp_path)["dim"] == 3


def test_data_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recipe palette learns maps"):
        train(replace(tiny(1), data=Shapes()), tmp_path, progress=False)
    with pytest.raises(ValueError, match="the recipe shapes learns potentials"):
        train(replace(RECIPES["shapes"](), data=Palettes()), tmp_path, progress=False)


def test_a_network_that_sees_pictures_is_shown_pictures() -> None:
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    predictor = AmortizedMap(ResNetIcnn.for_dim(3, hidden=[4], width=8).float().requires_grad_(False))
    (shown,) = _recoloured(predictor, images).values()
    assert shown.shape == (64, 128, 3)


def test_the_board_shows_validation_pairs_as_they_improve(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for k in range(20):
        pixels = torch.rand(30, 40, 3) ** (1 + k / 4) * 255
        image.fromarray(pixels.byte().numpy()).save(tmp_path / f"{k:02}.png")
    recipe = replace(
        tiny(4), data=Paintings(batch=2, samples=32, path=str(tmp_path)), validate_every=2, average=0.0
    )
    train(replace(recipe, learning_rate=0.03, warmup=1), tmp_path / "run", progress=False)
    board = events.EventAccumulator(str(tmp_path / "run" / "board"), {"images": 0}).Reload()
    (title,) = board.Tags()["images"]
    shown = board.Images(title)
    assert [picture.step for picture in shown] == [2, 4, 4]
    assert "recoloured" in title
    first, last = (np.asarray(image.open(io.BytesIO(shown[k].encoded_image_string))) for k in (0, -1))
    width = first.shape[1] // 4
    assert first.shape == (160, 640, 3)
    assert np.array_equal(first[:, : 2 * width], last[:, : 2 * width])  # source and target
    assert not np.array_equal(first[:, 2 * width :], last[:, 2 * width :])  # as they improve
