"""`ray_batch.py --matrix` writes the matrix that `pairwise` makes, by several workers."""

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


def test_workers_share_the_pairs_of_a_matrix(tmp_path: Path) -> None:
    made = run(tmp_path, "--matrix", str(COUNT), "--workers", "2", "--batch", "4", "--out", "matrix")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["pairs"] == COUNT * (COUNT - 1) // 2
    images = np.random.default_rng(0).integers(0, 256, (10, 784), np.uint8)[:COUNT].astype(float)
    expected = pairwise(images / images.sum(1, keepdims=True), metaot.Grid(28, 28), 1e-2, landmarks=0)
    np.testing.assert_allclose(np.load(tmp_path / "matrix" / "divergences.npy"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a model to predict with, or --matrix N"),
        (("model.onnx", "--matrix", "3"), "give a model to predict with, or --matrix N"),
        (("--matrix", "1"), "--matrix must be 2 to 10, got 1"),
        (("--matrix", "11"), "--matrix must be 2 to 10, got 11"),
    ],
)
def test_contradictions_are_named(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    made = run(tmp_path, *arguments)
    assert made.returncode == 2
    assert words in made.stderr
