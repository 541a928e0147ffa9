"""Show what is installed, what makes the solver's steps, and where data and checkpoints are; without torch."""

import argparse
import ctypes
import os
import platform
import re
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from metaot import __version__, core
from metaot.folders import data_folder, shipped

_LIBRARIES = ("torch", "numpy", "onnxruntime", "datasets", "tensorboard", "onnx", "onnxscript", "POT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run(options: argparse.Namespace) -> None:
    rows = {
        "metaot": f"{__version__} in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "solver": _solver(),
        "core": _compiled(),
        "threads": _threads(),
        "device": _device(),
        "data": _data(),
        "checkpoints": ", ".join(shipped()) or "none beside the package",
    }
    rows |= {name: _version(name) for name in _LIBRARIES}
    for name, words in rows.items():
        print(f"{name:12} {words}")


def _solver() -> str:
    if core.COMPILED:
        return "compiled code for float64 on a CPU, torch elsewhere"
    return "torch, everywhere: the same answers, later"


def _compiled() -> str:
    """Return words on the compiled core: where it is, or why it is not."""
    try:
        module = import_module("metaot.core._core")
    except ImportError as error:
        files = [*Path(core.__file__).parent.glob("_core*.so"), *Path(core.__file__).parent.glob("_core*.pyd")]
        if files:
            return f"{files[0]} is there and cannot be loaded: {' '.join(str(error).split())}"
        return "not built: there was no C compiler when metaot was installed; install one, and then metaot again"
    return (
        f"{module.__file__} ({'any Python from 3.11 on' if '.abi3.' in str(module.__file__) else 'this Python'})"
    )


def _threads() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
    words = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{cores} processors; {words or 'OMP_NUM_THREADS is not set: torch and the core take all of them'}"


def _device() -> str:
    """Return words on CUDA: whether torch was built for it, and whether there is a device."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "CPU (no torch)"
    built = re.search(r"^cuda\b[^=]*= *'([^']+)'", (Path(spec.origin).parent / "version.py").read_text(), re.M)
    devices = _cuda_devices()
    if built is None:
        return f"CPU; torch is built without CUDA{f', {devices} CUDA devices are not used' if devices else ''}"
    if not devices:
        return f"CPU; torch is built for CUDA {built[1]}, no device is there"
    return f"CPU, and {devices} CUDA device{'s' * (devices > 1)}; torch is built for CUDA {built[1]}"


def _cuda_devices() -> int:
    """Count the CUDA devices that the driver shows; torch would say so too, after seconds."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        shown = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if shown else 0


def _data() -> str:
    folder = data_folder()
    source = "METAOT_DATA" if os.environ.get("METAOT_DATA") else "the user's cache; METAOT_DATA is not set"
    if not folder.is_dir():
        return f"{folder} ({source}; not there yet)"
    there = sorted(each.name for each in folder.iterdir() if each.is_dir())
    return f"{folder} ({source}): {', '.join(there) or 'empty'}"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
