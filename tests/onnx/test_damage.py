"""Files that were damaged, exchanged or edited: refused by name, or no number changes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import CHANGES, require_no_silent_change

import metaot
from metaot import Grid, OnnxMap, OnnxModel, Problem, SampleProblem


def answer(path: Path) -> np.ndarray:
    """Predict with what is at a path."""
    model = metaot.load(path)
    if isinstance(model, OnnxMap):
        x = np.random.default_rng(0).random((9, 3))
        return model.predict(x, x**2).push(x)
    a = np.full((6, 5), 1 / 30)
    a[2] *= np.linspace(0.5, 1.5, 5)
    if isinstance(model, OnnxModel):
        return model.predict(a, a[::-1], eps=0.02).f
    if model.eps is None:
        x = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
        return model.predict(SampleProblem(x, x**2)).push(x).numpy()
    a, b = torch.as_tensor(a.ravel()), torch.as_tensor(a[::-1].ravel())
    return model.predict(Problem(a, b, Grid(6, 5), 0.02)).f.numpy()


@pytest.mark.parametrize(
    ("kind", "name", "opened"),
    [
        ("refined", "model.safetensors", ""),
        ("refined", "model.json", ""),
        ("refined", "model.onnx", "model.onnx"),
        ("maps", "model.safetensors", ""),
        pytest.param("maps", "model.onnx", "", marks=pytest.mark.slow),
        ("maps", "model.onnx", "model.onnx"),
        ("maps", "model-push.onnx", "model.onnx"),
        ("universal", "model.onnx", "model.onnx"),
    ],
)
def test_a_single_change_is_refused_or_changes_no_number(
    kind: str, name: str, opened: str, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported(kind), tmp_path / "run")
    refused = require_no_silent_change(folder / name, lambda: answer(folder / opened))
    assert refused == CHANGES if name != "model.json" else refused > CHANGES / 4
