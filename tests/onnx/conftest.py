"""Small models as files: exported once for all tests of this folder."""

from pathlib import Path

import pytest
import torch
from exports import CARD, predictor


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small model on a 6 x 5 grid, eps from 0.01 to 0.1."""
    from metaot.onnx.export import prediction_model  # noqa: PLC0415, an extra

    torch.set_default_dtype(torch.float64)
    path = tmp_path_factory.mktemp("onnx") / "refined.onnx"
    path.write_bytes(prediction_model(predictor("refined"), CARD))
    return path
