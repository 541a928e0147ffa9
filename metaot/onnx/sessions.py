"""ONNX files that metaot wrote, opened by onnxruntime, and what they say of themselves."""

import json
from collections.abc import Sequence
from typing import Any

import onnxruntime

FORMAT = "1"


def open_session(
    name: str, content: bytes, threads: int, providers: Sequence[str], *, optimise: bool = True
) -> onnxruntime.InferenceSession:
    """Open the content of a file, with threads that do not spin; ValueError where onnxruntime cannot open it.

    Without `optimise` it opens sooner: for a few evaluations.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    available = onnxruntime.get_available_providers()
    if not providers or not set(providers) <= set(available):
        raise ValueError(f"providers must be of {available}, got {list(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")  # slower for one problem
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime has no class of its own for it
        raise ValueError(f"onnxruntime cannot open {name}: {error}") from error


def read_metadata(
    name: str, session: onnxruntime.InferenceSession, keys: Sequence[str], *, kind: str, other: str
) -> dict[str, Any]:
    """Return what a file says of its model; ValueError unless metaot wrote it, with metadata of this kind."""
    found = session.get_modelmeta().custom_metadata_map
    if "metaot" not in found:
        raise ValueError(f"{name} was not written by metaot: `python export.py CHECKPOINT` writes one")
    try:
        version = json.loads(found["metaot"])["format"]
    except (ValueError, KeyError, TypeError):
        version = None
    if version != FORMAT:
        raise ValueError(f"{name} has format {version!r}, this version reads {FORMAT!r}")
    if kind not in found:
        raise ValueError(f"{name} holds another kind of model: {other} opens it")
    return {key: json.loads(found[key]) for key in keys}
