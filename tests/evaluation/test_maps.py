"""The protocol of continuous models: its scale, its bounds, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strategies import assert_close

from metaot.amortize.maps import AmortizedMap
from metaot.checkpoint import read_card, save
from metaot.cli import main
from metaot.data import Planted
from metaot.evaluation.maps import evaluate_maps
from metaot.models.palette import PaletteIcnn
from metaot.recipes import RECIPES
from metaot.tools.value import half_squared_distance


def small_model() -> AmortizedMap:
    model = PaletteIcnn.for_dim(2, hidden=[8], features=16, width=16, depth=1).float().requires_grad_(False)
    return AmortizedMap(model)


@pytest.fixture(scope="module")
def report():
    return evaluate_maps(small_model(), Planted(dim=2).split("test"), instances=4, samples=100, steps=30)


def test_the_scale_goes_from_the_worst_to_the_best_of_both_runs(report) -> None:
    runs = torch.cat([report.normalised(curve.values) for curve in report.curves[:2]], 1)
    assert_close(runs.amin(1), 0.0)
    assert_close(runs.amax(1), 1.0)
    assert report.steps == (0, 5, 10, 25, 30)
    assert_close(report.curves[1].values[:, 0], report.prediction, rtol=1e-2)


def test_no_value_is_above_the_distance_and_fine_tuning_explains_more(report) -> None:
    for curve in report.curves:
        assert (curve.values <= 1.01 * report.distance[:, None]).all()
    assert (report.linear <= 1.01 * report.distance).all()
    linear, tuned = report.unexplained["linear (Bures)"], report.unexplained["model, Gauss-Newton, 25 steps"]
    assert tuned.mean() < linear.mean()


def test_no_instances_are_refused() -> None:
    with pytest.raises(ValueError, match="instances and steps must be at least 1"):
        evaluate_maps(small_model(), Planted(dim=2).split("test"), instances=0)


def test_the_distance_of_sorted_samples_on_a_line() -> None:
    problem = replace(Planted(dim=1).split("test"), batch=5, samples=200).sample(torch.Generator())
    x, y = (z[..., 0].sort(-1).values.double() for z in (problem.x, problem.y))
    exact = 0.5 * (x - y).square().mean(-1)
    found = half_squared_distance(problem).double()
    assert (found <= exact * (1 + 1e-5)).all()
    assert_close(found, exact, rtol=1e-2)


def test_the_command_measures_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    save(small_model(), tmp_path, recipe=replace(RECIPES["planted"](), data=Planted(dim=2)).to_json())
    options = ["--instances", "3", "--samples", "100", "--steps", "5", "--record"]
    assert main(["evaluate", str(tmp_path), *options]) == 0
    text = capsys.readouterr().out
    assert "L2-UVP" in text
    assert "\n| from scratch " in text
    assert read_card(tmp_path)["test"].keys() >= {"normalised_value", "share_of_optimum", "prediction_ms"}
    assert len(json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["curves"]) == 3
    assert (tmp_path / "evaluation" / "curves.png").read_bytes()[1:4] == b"PNG"
    assert main(["evaluate", str(tmp_path), "--data", "shapes"]) == 2
    assert "do not fit" in capsys.readouterr().err
