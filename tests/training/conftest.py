"""Trainings end without writing their network as ONNX, which takes seconds."""

from pathlib import Path

import numpy as np
import pytest

from metaot.training import loop, tasks


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose network would have been written."""
    folders: list[Path] = []
    monkeypatch.setattr(loop, "write_network", lambda folder, data_dir: folders.append(folder))
    return folders


@pytest.fixture(autouse=True)
def _no_places(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Draw no places, which takes longer than all else, except for tests of the board."""
    if "board" not in request.node.name:
        monkeypatch.setattr(tasks, "places_sheet", lambda *_: np.zeros((2, 2, 3), np.uint8))
