"""The commands, end to end: what a user types, and the answer."""

import json
import subprocess
import sys
from contextlib import chdir
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import metaot
from metaot.checkpoint import read_card
from metaot.cli import main
from metaot.data import write_problems

TINY = "data.side=8 data.batch=8 data.eps=0.1 model_settings.hidden=16 model_settings.modes=5 steps=20"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = [part for setting in TINY.split() for part in ("--set", setting)]
    stop = ["--stop-at", "19"]  # before the end, where the network is exported, which takes long
    assert main(["train", "shapes", "--out", str(folder), "--quiet", *settings, *stop]) == 0
    return folder


def test_evaluate_prints_a_table_and_writes_json_and_pictures(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("metaot.cli.evaluate.DIGITS", 2)
    options = ["--instances", "6", "--tol", "1e-2", "1e-3", "--seconds", "0", "--record"]
    assert main(["evaluate", str(run), *options]) == 0
    table = capsys.readouterr().out
    assert all(words in table for words in ("zeros", "Gaussian", "model", "Sinkhorn steps to an L1 error"))
    content = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert [result["eps"] for result in content["results"]] == [0.1]
    for name in ("convergence.png", "interpolations.png"):
        picture = (run / "evaluation" / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert int.from_bytes(picture[16:20]) == 1400
        assert len(picture) < 200_000
    assert len(list((run / "evaluation").iterdir())) == 3
    steps = read_card(run)["test"]["eps"]["0.1"]["mean_steps"]
    assert 0 <= steps["0.01"] <= steps["0.001"]


@pytest.mark.slow
def test_your_own_problems_are_trained_and_evaluated_with_a_picture_of_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    a, b = (rng.dirichlet(np.ones(n), 40) for n in (6, 9))
    write_problems(tmp_path / "days", a, b, x=rng.random((6, 2)), y=rng.random((9, 2)), eps=0.1)
    run, sizes = tmp_path / "run", ["data.batch=4", "validation_batch=2", "model_settings.width=16"]
    settings = [part for setting in (f"data.path={tmp_path / 'days'}", *sizes) for part in ("--set", setting)]
    assert main(["train", "problems", "--out", str(run), "--quiet", *settings, "--stop-at", "2"]) == 0
    assert main(["evaluate", str(run), "--instances", "4", "--tol", "1e-2", "--seconds", "0"]) == 0
    assert "1 Sinkhorn step" in capsys.readouterr().out
    assert {file.name for file in (run / "evaluation").iterdir()} == {
        "evaluation.json", "convergence.png", "places.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("evaluate nowhere", "nowhere is not a checkpoint"),
        ("train shapes --out {run}", "holds a run already"),
        ("train shapes --out new --set stepz=1", "no setting 'stepz', did you mean 'steps'"),
        ("train mnist --out new --data-dir new", "metaot fetch mnist"),
        ("train problems --out new", "write_problems"),
        ("evaluate {run} --eps -1", "--eps: wants a positive number, got '-1'"),
        ("evaluate {run} --eps 0.3", "trained for eps in"),
        ("recolor bad.png a.png -o c.png", "bad.png is not a picture that can be read"),
        ("recolor a.png none.png -o c.png", "none.png is not there"),
        ("recolor a.png a.png -o c.xyz --model linear", "c.xyz must end with"),
        ("recolor a.png a.png -o no/c.png", "is not a folder"),
        ("recolor a.png a.png -o c.png --steps -1", "--steps: wants a whole number of at least 0, got '-1'"),
        ("recolor a.png a.png -o c.png --model nowhere", "nowhere is not a checkpoint"),
        ("recolor a.png a.png -o c.png --model universal", "universal is no model of palettes"),
    ],
)
def test_an_error_is_one_line_and_changes_no_file(
    call: str, words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL.Image").new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    before = (run / "model.safetensors").read_bytes()
    with chdir(tmp_path):
        assert main(call.format(run=run).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("metaot: ")
    assert words in error
    assert error.count("\n") == 1
    assert (run / "model.safetensors").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "bad.png"}


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "metaot", "--help"], capture_output=True, text=True, check=True)
    assert all(command in done.stdout for command in ("train", "evaluate", "fetch"))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "metaot.evaluation.pictures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(ImportError, match=r"pip install 'metaot\[plot\]'"):
        import_module("metaot.evaluation.pictures")


def test_every_public_name_is_there() -> None:
    assert all(getattr(metaot, name) is not None for name in metaot.__all__)
    assert set(dir(metaot)) >= set(metaot.__all__)
