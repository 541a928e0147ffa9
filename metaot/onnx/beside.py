"""A checkpoint's network as ONNX files beside its weights: written when training ends, read without torch."""

import hashlib
import warnings
from importlib.util import find_spec
from pathlib import Path

from metaot.folders import WEIGHTS
from metaot.onnx.maps import OnnxMap

NETWORK = "model.onnx"
"""The file of a checkpoint's network; of a model of maps there is model-push.onnx as well."""


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def map_beside(folder: Path, *, threads: int = 1) -> OnnxMap | None:
    """Open the network of a checkpoint of maps; None where there is none, and with a warning if it is stale."""
    file = folder / NETWORK
    if not file.exists():
        return None
    try:
        network = OnnxMap(file, threads=threads)
        if network.metadata["maps"]["weights"] == fingerprint(folder):
            return network
        fault = "it was made of other weights"
    except (ValueError, KeyError, FileNotFoundError) as error:
        fault = str(error)
    warnings.warn(
        f"{file} is not used: {fault}; `metaot export {folder} --out {file}` makes it anew", stacklevel=2
    )
    return None


def can_export() -> bool:
    """Return whether the packages of the extra `export` are installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript"))
