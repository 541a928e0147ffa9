"""Sessions of onnxruntime: how the files of networks are opened, without torch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

CPU = ("CPUExecutionProvider",)


def session(
    name: str, content: bytes, *, threads: int = 1, providers: Sequence[str] = CPU, optimise: bool = True
) -> "onnxruntime.InferenceSession":
    """Open the content of a file with threads that do not spin; ValueError, with its name, for other files.

    Without `optimise` it opens sooner: for a few evaluations.
    """
    import onnxruntime  # noqa: PLC0415, it takes long to import

    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    available = onnxruntime.get_available_providers()
    if not providers or not set(providers) <= set(available):
        raise ValueError(f"providers must be of {available}, got {list(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime has no class of its own for it
        raise ValueError(f"onnxruntime cannot open {name}: {error}") from error


def runner(opened: "onnxruntime.InferenceSession") -> Callable[[Sequence[str], dict[str, Any], None], list[Any]]:
    """Return `opened.run` without its checks in Python, which take as long as a layer of a network."""
    return opened._sess.run  # type: ignore[union-attr]
