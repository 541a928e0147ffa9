"""Training: it learns, goes on exactly where it stopped, and leaves cleanly when asked to."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import metaot
from metaot.checkpoint import read_card
from metaot.data import Shapes, write_problems
from metaot.recipes import RECIPES
from metaot.training import Recipe, train
from metaot.training.loop import schedule


def tiny(steps: int = 40) -> Recipe:
    return replace(
        RECIPES["shapes"](),
        data=Shapes(batch=16, eps=(0.02, 0.02), side=8),
        model_settings={"first": {"moments": 6, "modes": 6, "width": 64}, "modes": 6, "hidden": 32},
        steps=steps,
        warmup=5,
        average=0.9,
        validation_batch=16,
        validate_every=20,
        save_every=10,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    train(tiny(), tmp_path / "whole", progress=False)
    train(tiny(), tmp_path / "parts", stop_at=17, progress=False)
    assert read_card(tmp_path / "parts")["step"] == 17
    train(tiny(), tmp_path / "parts", resume=True, progress=False)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_begins_from_the_weights_of_another(tmp_path: Path) -> None:
    train(tiny(10), tmp_path / "first", progress=False)
    train(tiny(1), tmp_path / "again", begin_from=tmp_path / "first", progress=False)
    first, again = weights(tmp_path / "first"), weights(tmp_path / "again")
    assert all((first[name] - again[name]).abs().max() < 1e-3 for name in first)  # a step of 6e-4 away
    assert read_card(tmp_path / "again")["step"] == 1


def test_it_begins_only_from_a_network_that_is_built_the_same(tmp_path: Path) -> None:
    train(tiny(1), tmp_path / "first", progress=False)
    wider = replace(tiny(1), model_settings={**tiny().model_settings, "hidden": 40})
    with pytest.raises(ValueError, match=r"RefinedPotential.* it is .*: set the same model_settings"):
        train(wider, tmp_path / "other", begin_from=tmp_path / "first", progress=False)
    with pytest.raises(ValueError, match="begin from are of a UniversalNetwork"):
        train(tiny(1), tmp_path / "other", begin_from="universal", progress=False)
    assert not (tmp_path / "other").exists()


def test_seconds_of_training_beat_the_cold_start(tmp_path: Path) -> None:
    train(tiny(400), tmp_path, progress=False)
    figures = read_card(tmp_path)["validation"]
    assert figures["steps_saved"] > 3
    train(tiny(1), tmp_path / "short", progress=False)
    assert figures["dual_gap"] < 0.2 * read_card(tmp_path / "short")["validation"]["dual_gap"]


def test_the_card_tells_what_was_done(tmp_path: Path) -> None:
    train(tiny(2), tmp_path, progress=False)
    card = read_card(tmp_path)
    assert card["step"] == 2
    assert card["recipe"]["data"] == {"kind": "Shapes", "batch": 16, "eps": [0.02, 0.02], "side": 8}
    assert card["versions"]["torch"] == torch.__version__
    assert set(card["validation"]) == {"dual_gap", "marginal_error", "steps", "steps_saved"}
    assert list((tmp_path / "board").iterdir())


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tiny(4), tmp_path, progress=False)
    before, card = weights(tmp_path), read_card(tmp_path)
    assert train(tiny(4), tmp_path, resume=True, progress=False) == 4
    after = weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_card(tmp_path)["validation"] == card["validation"]


def test_a_run_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run to resume"):
        train(tiny(2), tmp_path, resume=True)
    train(tiny(2), tmp_path, progress=False)
    with pytest.raises(ValueError, match="--resume"):
        train(tiny(2), tmp_path)
    with pytest.raises(ValueError, match=r"learning_rate = 0\.003, not 0\.5"):
        train(replace(tiny(2), learning_rate=0.5), tmp_path, resume=True)


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"step \d+ is not finite: lower learning_rate"):
        train(replace(tiny(400), learning_rate=1e30), tmp_path, progress=False)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step, 10, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(1)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] < 1e-3


def test_the_users_own_problems_train_on_any_geometry(tmp_path: Path) -> None:
    a, b = torch.rand(2, 60, 12).double().softmax(-1)
    write_problems(tmp_path / "set", a, b, x=torch.rand(12, 2), y=torch.rand(12, 2), cost="euclidean", eps=0.1)
    recipe = RECIPES["problems"]()
    data = replace(recipe.data, path=str(tmp_path / "set"), batch=8)
    small = replace(recipe, data=data, model_settings={"width": 16}, steps=3)
    assert train(small, tmp_path / "run", progress=False) == 3
    assert metaot.load(tmp_path / "run").geometry.matches(data.split("test").geometry)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metaot", "train", "shapes", "--out", str(tmp_path), "--quiet"]
    settings = ["data.side=8", "data.batch=4", "model_settings.first={}", "save_every=1000000"]
    options = [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("board/*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    run.send_signal(number)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "--resume" in output
    assert 0 < json.loads((tmp_path / "model.json").read_text())["step"] < 10_000
