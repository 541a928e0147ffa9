"""`load`: the predictor of a checkpoint, or of an ONNX file without torch."""

from pathlib import Path
from typing import Any


def load(what: str | Path) -> Any:
    """Return the predictor of a checkpoint folder, of a shipped checkpoint by its name, or of an .onnx file.

    A file that `export.py` wrote gives an `OnnxModel`, or an `OnnxMap` if its -push file is beside it: neither
    needs torch. For all others see `metaot.checkpoint.load`. Raises FileNotFoundError when there is nothing there,
    and ValueError for files that are not ours.
    """
    path = Path(what)
    if path.suffix != ".onnx":
        from metaot.checkpoint import load as load_checkpoint  # noqa: PLC0415, it needs torch

        return load_checkpoint(what)
    from metaot.onnx import OnnxMap, OnnxModel  # noqa: PLC0415, who loads checkpoints needs none of it
    from metaot.onnx.maps import push_file  # noqa: PLC0415

    return OnnxMap(path) if push_file(path).exists() else OnnxModel(path)
