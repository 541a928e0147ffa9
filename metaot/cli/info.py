"""Show what is installed, and whether the solver has its compiled core."""

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path

from metaot import __version__, core
from metaot.folders import shipped

_LIBRARIES = ("torch", "numpy", "onnxruntime", "datasets", "tensorboard", "onnx", "onnxscript", "POT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(options: argparse.Namespace) -> None:
    steps = "compiled code for float64 on a CPU, torch elsewhere" if core.COMPILED else "torch: no compiled core"
    rows = {
        "metaot": f"{__version__} in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "solver": steps,
        "data": os.environ.get("METAOT_DATA", "METAOT_DATA is not set: the user's cache"),
        "checkpoints": ", ".join(shipped()) or "none beside the package",
    }
    rows |= {name: _version(name) for name in _LIBRARIES}
    for name, words in rows.items():
        print(f"{name:12} {words}")


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
