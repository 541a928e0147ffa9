"""Trainings end without writing their network as ONNX, which takes seconds."""

from pathlib import Path

import pytest

from metaot.training import loop


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose network would have been written."""
    folders: list[Path] = []
    monkeypatch.setattr(loop, "write_network", lambda folder, data_dir: folders.append(folder))
    return folders
