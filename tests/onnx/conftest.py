"""Checkpoints of small models with their files: each is exported once for all tests of this folder."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from exports import predictor

from metaot.checkpoint import save
from metaot.cli import main


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a model, with its file model.onnx."""

    @cache
    def folder(name: str) -> Path:
        path = tmp_path_factory.mktemp("onnx") / name
        recipe = {"data": {"kind": "Planted", "batch": 2}} if name == "maps" else None
        save(predictor(name), path, recipe=recipe, step=7, validation={"steps_saved": 3.0})
        assert main(["export", str(path), "--out", str(path / "model.onnx")]) == 0
        return path

    return folder


@pytest.fixture
def written(exported: Callable[[str], Path]) -> Path:
    """A file of a small model on a 6 x 5 grid, eps from 0.01 to 0.1."""
    return exported("refined") / "model.onnx"
