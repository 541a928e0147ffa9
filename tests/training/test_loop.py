"""Recipes and their runs: settings are checked, a resumed run is the same run, and a run stops when asked to."""

import signal
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import tiny
from torch import Tensor

import metaot
from metaot import Dense, Problem
from metaot.amortize.costs import CostPotential
from metaot.checkpoint import read_card, write_network
from metaot.cli import main
from metaot.data import ProblemFolder, source_from_json, write_problems
from metaot.models import single
from metaot.models.costs import CostNetwork
from metaot.objectives import scaled_dual_loss
from metaot.onnx.maps import fingerprint
from metaot.recipes import RECIPES
from metaot.training import override, train
from metaot.training.loop import TrainingState, schedule


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "name",
    ["shapes", "problems", *(pytest.param(n, marks=pytest.mark.slow) for n in ("universal", "palette", "sphere"))],
)
def test_a_resumed_run_is_the_same_bit_for_bit(name: str, tmp_path: Path, networks: list[Path]) -> None:
    recipe = tiny(name, 12, validate_every=4, save_every=3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, progress=False)
    assert train(recipe, parts, stop_at=5, progress=False) == read_card(parts)["step"] == 5
    assert networks == [whole]
    train(recipe, parts, resume=True, progress=False)
    card = read_card(whole)
    assert train(recipe, whole, resume=True, progress=False) == 12  # finished before: nothing changes
    assert read_card(whole)["validation"] == card["validation"]
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(parts).items())


def test_a_run_begins_from_the_weights_of_another(tmp_path: Path) -> None:
    train(tiny("shapes", 10), tmp_path / "first", progress=False)
    train(tiny("shapes", 1), tmp_path / "again", begin_from=tmp_path / "first", progress=False)
    first, again = weights(tmp_path / "first"), weights(tmp_path / "again")
    assert all((first[name] - again[name]).abs().max() < 1e-3 for name in first)  # a step of 6e-4 away
    assert read_card(tmp_path / "again")["step"] == 1
    wider = tiny("shapes", 1, model_settings={**tiny("shapes", 1).model_settings, "hidden": 40})
    with pytest.raises(ValueError, match=r"RefinedPotential.* it is .*: set the same model_settings"):
        train(wider, tmp_path / "other", begin_from=tmp_path / "first", progress=False)
    with pytest.raises(ValueError, match="begin from are of a UniversalNetwork"):
        train(tiny("shapes", 1), tmp_path / "other", begin_from="universal", progress=False)
    assert not (tmp_path / "other").exists()


def test_the_range_of_costs_is_that_of_the_problems_of_this_training() -> None:
    first, ours = (single(CostNetwork(width=2, hidden=2, shares=[1], rounds=[1])) for _ in range(2))
    ours.spreads.copy_(torch.tensor([3.0, 40.0]))
    state = TrainingState(ours, deepcopy(ours), torch.optim.Adam(ours.parameters()))
    state.begin_from(first)
    for model in (state.model, state.average):
        assert model.spreads.tolist() == [3, 40]
        assert all(map(torch.equal, model.parameters(), first.parameters()))
    far = Problem([0.5, 0.5], [0.3, 0.7], Dense([[0.0, 600.0], [0.0, 0.0]]), 1.0)
    CostPotential(state.model).predict(far)  # in training, an unusual problem is learned from
    state.update_average(0.999)
    CostPotential(state.average.eval()).predict(far)
    with pytest.raises(ValueError, match="3 to 189 eps in the mean"):
        CostPotential(state.average.eval()).predict(replace(far, eps=0.01))


def test_progress_is_a_few_lines_where_there_is_no_terminal(tmp_path: Path, networks: list[Path], capsys) -> None:
    train(tiny("shapes", 6, log_every=1), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) <= 4
    assert "shapes: 6/6" in lines[-1]
    assert "loss=" in lines[-1]


def test_a_run_is_never_overwritten_and_its_card_tells_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run to resume"):
        train(tiny("shapes", 2), tmp_path, resume=True)
    train(tiny("shapes", 2), tmp_path, progress=False)
    with pytest.raises(ValueError, match="--resume"):
        train(tiny("shapes", 2), tmp_path)
    with pytest.raises(ValueError, match="give one of them"):
        train(tiny("shapes", 2), tmp_path, resume=True, overwrite=True)
    with pytest.raises(ValueError, match=r"seed = 0, not 5"):
        train(tiny("shapes", 2, seed=5), tmp_path, resume=True)
    state = (tmp_path / "training.pt").read_bytes()
    for damaged in (state[:-100], state[:500] + b"!" + state[501:], b""):
        (tmp_path / "training.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"training\.pt is damaged: .* --overwrite|digest"):
            train(tiny("shapes", 4), tmp_path, resume=True, progress=False)
    card = read_card(tmp_path)
    assert card["step"] == 2
    assert card["recipe"]["data"] == {"kind": "Shapes", "batch": 16, "eps": [0.02, 0.02], "side": 8}
    assert card["versions"]["torch"] == torch.__version__
    assert set(card["validation"]) == {"dual_gap", "marginal_error", "steps", "steps_saved", "replaced"}
    assert list((tmp_path / "board").iterdir())


def test_a_gradient_that_is_not_finite_stops_the_run_which_goes_on_from_its_last_save(tmp_path: Path) -> None:
    train(tiny("shapes", 2), tmp_path, progress=False)
    with pytest.raises(FloatingPointError, match=r"step \d+ is not finite: lower learning_rate"):
        train(tiny("shapes", 400, learning_rate=1e30), tmp_path, resume=True, progress=False)
    train(tiny("shapes", 4, learning_rate=1e-4), tmp_path, resume=True, progress=False)
    assert read_card(tmp_path)["step"] == 4


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step, 10, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(1)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] < 1e-3


def test_the_users_own_problems_train_on_any_geometry(tmp_path: Path) -> None:
    a, b = torch.rand(2, 60, 12).double().softmax(-1)
    write_problems(tmp_path / "set", a, b, x=torch.rand(12, 2), y=torch.rand(12, 2), cost="euclidean", eps=0.1)
    data = ProblemFolder(str(tmp_path / "set"), batch=8)
    small = replace(RECIPES["problems"](), data=data, model_settings={"width": 16, "passes": 2}, steps=3)
    assert train(small, tmp_path / "run", progress=False) == 3
    model = metaot.load(tmp_path / "run")
    assert model.geometry.matches(data.split("test").geometry)
    assert model.passes == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_later_ones_act_as_before(number: signal.Signals, tmp_path: Path) -> None:
    def loss(problem: metaot.Problem, f: Tensor) -> Tensor:
        signal.raise_signal(number)
        return scaled_dual_loss(problem, f)

    later: list[int] = []
    before = signal.signal(number, lambda *_: later.append(number))
    try:
        assert train(tiny("shapes", 400, objective=loss), tmp_path, progress=False) == 1
    finally:
        signal.signal(number, before)
    assert read_card(tmp_path)["step"] == 1
    assert later


def test_the_command_ends_with_the_network_as_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    written = []

    def export(predictor, folder, path, *, data_dir):
        written.append((path, fingerprint(folder), read_card(folder)["step"]))

    monkeypatch.setattr("metaot.training.loop.write_network", write_network)
    monkeypatch.setattr("metaot.onnx.export.export", export)
    settings = ("steps=2", "data.batch=2", "validation_batch=2", "model_settings.features=16")
    command = ["train", "palettes", "--out", str(tmp_path), "--quiet", *(f"--set={each}" for each in settings)]
    assert main([*command, "--stop-at", "1"]) == 0
    assert "--resume" in capsys.readouterr().out
    assert written == []
    assert main([*command, "--resume"]) == 0
    assert written == [(tmp_path / "model.onnx", fingerprint(tmp_path), 2)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_it_is_called_and_json_holds_its_data(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert source_from_json(recipe.to_json()["data"]) == recipe.data


def test_settings_are_reached_at_any_depth() -> None:
    changes = ["steps=7", "learning_rate=1", "data.batch=3", "data.eps=[0.1, 1]", "model_settings.hidden=8"]
    recipe = override(RECIPES["shapes"](), changes)
    assert recipe.steps == 7
    assert recipe.learning_rate == 1.0
    assert (recipe.data.batch, recipe.data.eps) == (3, (0.1, 1.0))
    assert recipe.model_settings["hidden"] == 8
    assert override(recipe, ["data.eps=0.5"]).data.eps == (0.5, 0.5)
    assert override(recipe, ["model_settings.first.width=64"]).model_settings["first"] == {"width": 64}
    assert override(RECIPES["universal"](), ["data.sides=[8, 9]"]).data.sides == (8, 9)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("steps", "wants key=value, got 'steps'"),
        ("stepz=3", r"no setting 'stepz', did you mean 'steps'\? `metaot train shapes --help` lists them"),
        ("batch=3", "did you mean 'data.batch'"),
        ("steps.more=3", r"no setting 'steps.more'"),
        ("model_settings.wdith=3", "no setting 'model_settings.wdith'"),
        ("model_settings.hidden=many", "type int"),
        ("steps=0", "at least 1, got 0"),
        ("data.eps=[1, NaN]", "positive and finite"),
        ("steps=many", r"type int \(now \d+\), got 'many'"),
        ("steps=1.5", "type int"),
        ("learning_rate=true", "type float"),
        ("data.eps=[1, 2, 3]", "list of 2 numbers"),
    ],
)
def test_a_bad_assignment_says_what_was_expected(assignment: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        override(RECIPES["shapes"](), [assignment])
