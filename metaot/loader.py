"""`load`: the predictor of a checkpoint, or of an ONNX file without torch."""

from os import PathLike
from pathlib import Path
from typing import Any

from metaot.folders import located, taken


def load(what: str | PathLike[str], *, revision: str | None = None) -> Any:
    """Return the predictor of a checkpoint folder, of an .onnx file, of a shipped name, or of a name on the Hub.

    What exists here wins. A file of `metaot export` gives an `OnnxModel`, an `OnnxMap` if its -push file is beside
    it, or an `OnnxSemiDiscrete`: none needs torch. Of OWNER/NAME on the Hugging Face Hub, `revision` or
    OWNER/NAME@REVISION pins a branch, tag or commit; only safetensors, JSON and ONNX are fetched, and found again
    without a network.
    For all others see `metaot.checkpoint.load`. Raises TypeError for what is no name, FileNotFoundError when there
    is nothing there, and ValueError, with the file's name, for files that are damaged or not ours.
    """
    if not isinstance(what, str | PathLike):
        raise TypeError(f"load takes a name or a path, got {type(what).__name__} {what!r}: {taken()}")
    if not str(what).strip():
        raise ValueError(f"load takes a name or a path, got {str(what)!r}: {taken()}")
    path = located(what if isinstance(what, str) else Path(what), revision)
    if path.suffix != ".onnx":
        if path.is_file():
            raise ValueError(f"{path} is a file that is no .onnx: {taken()}")
        from metaot.checkpoint import load as load_checkpoint  # noqa: PLC0415, it needs torch

        return load_checkpoint(path)
    from metaot.onnx import OnnxMap, OnnxModel, OnnxSemiDiscrete  # noqa: PLC0415, checkpoints need none
    from metaot.onnx.maps import push_file  # noqa: PLC0415

    if path.is_file() and OnnxSemiDiscrete.is_in(path):
        return OnnxSemiDiscrete(path)
    return OnnxMap(path) if push_file(path).exists() else OnnxModel(path)
