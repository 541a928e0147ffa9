"""Production: a model as ONNX, and the runtime that needs numpy and onnxruntime only.

What is named here needs no torch, and each module is imported when it is used; `export` and what it imports make
the files, and need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaot.onnx.answers import OnnxSolution, Potentials
    from metaot.onnx.maps import OnnxMap, OnnxPair
    from metaot.onnx.runtime import OnnxModel

_HOME = {
    "OnnxMap": "maps",
    "OnnxModel": "runtime",
    "OnnxPair": "maps",
    "OnnxSolution": "answers",
    "Potentials": "answers",
}

__all__ = ["OnnxMap", "OnnxModel", "OnnxPair", "OnnxSolution", "Potentials"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'metaot.onnx' has no attribute {name!r}")
    return getattr(import_module(f"metaot.onnx.{_HOME[name]}"), name)
