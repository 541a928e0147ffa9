"""A network learns the potential of a population, is saved and loaded; what are no snapshots is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import tiny
from strategies import assert_close

import metaot
from metaot.checkpoint import read_card
from metaot.cli import main
from metaot.data import Shapes, Snapshots
from metaot.data.snapshots import splitting, splitting_gradient
from metaot.folders import data_folder
from metaot.recipes import RECIPES
from metaot.training import train


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """Return a file of few particles, the same ones at each time, in another order."""
    clouds = [splitting(0.1)[0][:100]]
    for _ in range(2):
        clouds.append(clouds[-1] - 0.1 * splitting_gradient(clouds[-1]))
    np.savez(tmp_path / "snapshots.npz", *(cloud.roll(5 * k, 0).numpy() for k, cloud in enumerate(clouds)))
    return tmp_path / "snapshots.npz"


def test_a_network_learns_the_drift_and_is_loaded(
    tmp_path: Path, snapshots: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Snapshots(str(snapshots), eps=0.0, new=0.0, batch=64)
    train(tiny("populations", 60, data=data), tmp_path / "run", progress=False)
    assert list((tmp_path / "run" / "board").iterdir())
    assert read_card(tmp_path / "run")["validation"]["unexplained"] < 0.5
    model = metaot.load(tmp_path / "run")
    x = splitting(0.1)[1][:50]
    truth = splitting_gradient(x)
    assert float((model.drift(x) + truth).norm() / truth.norm()) < 0.6
    moved = x + torch.tensor([1e-2, 0.0])
    slope = (model.potential(moved) - model.potential(x)) / 1e-2
    assert_close(slope.double(), -model.drift((x + moved) / 2)[:, 0].double(), 0.05)
    with pytest.raises(ValueError, match=r"must have the shape \(points, 2\), got \(3, 5\)"):
        model.drift(np.ones((3, 5)))
    assert main(["evaluate", str(tmp_path / "run"), "--record"]) == 0
    assert "| 1 to 2    |" in capsys.readouterr().out
    found = read_card(tmp_path / "run")["test"]
    assert found["unexplained"] < 0.5
    assert found["distance"] < 0.6 * found["rest"]
    if (data_folder(None) / "mnist").is_dir():
        assert main(["evaluate", str(tmp_path / "run"), "--data", "mnist"])
        assert "do not fit" in capsys.readouterr().err


def test_snapshots_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "one.npy", np.ones((1, 9, 2)))
    np.savez(tmp_path / "mixed.npz", np.ones((9, 2)), np.ones((9, 3)))
    np.save(tmp_path / "nan.npy", np.full((2, 9, 2), np.nan))
    np.save(tmp_path / "few.npy", np.ones((2, 3, 2)))
    for name, words in (
        ("one.npy", "two or more"), ("mixed.npz", "of one dimension"), ("nan.npy", "snapshot 0 must be finite"),
        ("few.npy", "at least 5 points"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words) as found:
            Snapshots(str(tmp_path / name)).split("train")
        assert name in str(found.value)
    with pytest.raises(ValueError, match="has none"):
        train(tiny("populations", 1, data=Shapes()), tmp_path / "run", progress=False)
    assert main(
        ["train", "populations", "--set", f"data.path={tmp_path / 'no.npy'}", "--out", str(tmp_path / "no")]
    )
    assert "no.npy" in capsys.readouterr().err
    assert RECIPES["populations"]().data == Snapshots()
