"""`ray_batch.py` makes what `pairwise`, `predict` and `solve` make, and goes on where it ended."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metaot
from metaot.losses import pairwise

SCRIPT = Path(__file__).parents[2] / "examples" / "serving" / "ray_batch.py"
COUNT = 6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder that holds ten random images in place of digits."""
    images = np.random.default_rng(0).integers(0, 256, (10, 784), np.uint8)
    (folder / "mnist").mkdir(exist_ok=True)
    with gzip.open(folder / "mnist" / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes(16) + images.tobytes())
    home = {"METAOT_DATA": str(folder), "PYTHONPATH": os.pathsep.join((str(SCRIPT.parents[2]), *sys.path))}
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, **home}
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def done(folder: Path, *arguments: str) -> dict[str, int]:
    """Run the script and return what it reports."""
    made = run(folder, *arguments, "--out", "out")
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def rows(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns of all blocks."""
    from pyarrow import dataset  # noqa: PLC0415, as ray

    table = dataset.dataset(folder / "out").to_table()
    return {name: table[name].to_numpy() for name in table.column_names}


def test_workers_share_the_pairs_of_a_matrix(tmp_path: Path) -> None:
    arguments = ("matrix", "--count", str(COUNT), "--workers", "2", "--block", "4", "--batch", "3")
    assert done(tmp_path, *arguments)["pairs"] == COUNT * (COUNT - 1) // 2
    images = np.random.default_rng(0).integers(0, 256, (10, 784), np.uint8)[:COUNT].astype(float)
    expected = pairwise(images / images.sum(1, keepdims=True), metaot.Grid(28, 28), 1e-2, landmarks=0)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "divergences.npy"), expected, atol=1e-6)


def test_finished_blocks_are_not_made_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    arguments = ("solve", "--count", "20", "--block", "6", "--tol", "1e-6")
    assert done(tmp_path, *arguments)["blocks"] == 4
    first, files = rows(tmp_path), sorted((tmp_path / "out").glob("*.parquet"))
    assert [file.stem for file in files] == [f"block-{k:08}" for k in range(4)]
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    files[2].rename(files[2].with_suffix(".parquet.partial"))  # the last call ended in the middle of it
    assert done(tmp_path, *arguments, "--workers", "2", "--batch", "2")["blocks"] == 2
    assert [file.stat().st_mtime_ns == t for file, t in zip(files, times, strict=True)] == [
        True,
        False,
        False,
        True,
    ]
    for name, column in rows(tmp_path).items():
        np.testing.assert_allclose(column, first[name], atol=1e-9)
    assert done(tmp_path, *arguments) == {"pairs": 0, "blocks": 0}
    refused = run(tmp_path, *arguments, "--eps", "0.02", "--out", "out")
    assert refused.returncode == 2
    assert "was begun with eps 0.01, not 0.02: give the same, or another --out" in refused.stderr


def test_predictions_of_the_universal_model_on_images_of_another_size(tmp_path: Path) -> None:
    images = np.random.default_rng(1).random((5, 12, 9)) + 0.1
    np.savez(tmp_path / "images.npz", images=images)
    done(tmp_path, "predict", "universal", "--measures", "images.npz", "--count", "7", "--eps", "0.05")
    found = rows(tmp_path)
    weights = images / images.sum((1, 2), keepdims=True)
    problem = metaot.Problem(weights[found["source"]], weights[found["target"]], metaot.Grid(12, 9), 0.05)
    guess = metaot.load("universal").predict(problem)
    np.testing.assert_allclose(found["value"], metaot.dual_value(problem, guess), atol=1e-9)


def test_clouds_of_different_masses(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    clouds, weights = generator.random((5, 20, 2)), generator.random((5, 20))
    np.savez(tmp_path / "clouds.npz", clouds=clouds, weights=weights)
    arguments = ("--measures", "clouds.npz", "--count", "7", "--eps", "0.05", "--rho", "0.5", "--tol", "1e-6")
    done(tmp_path, "solve", "universal", *arguments)
    found = rows(tmp_path)
    i, j = found["source"], found["target"]
    a = weights / weights.sum(1).mean()
    problem = metaot.Problem(a[i], a[j], metaot.Points(clouds[i], clouds[j]), 0.05, metaot.KL(0.5))
    np.testing.assert_allclose(found["value"], metaot.solve(problem, tol=1e-9).value, atol=1e-6)
    assert found["converged"].all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict",), "predict needs a model"),
        (("predict", "universal", "--rho", "1"), "--rho is for solve"),
        (("solve", "--block", "0"), "--block must be at least 1, got 0"),
        (("matrix", "--count", "1"), "--count must be at least 2, got 1"),
        (("matrix", "--count", "11"), "--count must be 2 to 10, the number of measures, got 11"),
        (("solve", "--eps", "-1"), "eps must be positive"),
        (("solve", "--measures", "none.npz"), "none.npz"),
        (("predict", "nothing"), "nothing"),
    ],
)
def test_contradictions_are_named(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    made = run(tmp_path, *arguments, "--out", "out")
    assert made.returncode == 2
    assert words in made.stderr
    assert not (tmp_path / "out").exists()
