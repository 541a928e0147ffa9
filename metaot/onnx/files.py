"""Files that `export.py` wrote, and sessions of onnxruntime that evaluate them; without torch.

onnxruntime is given only what has the right digest at its end (`metaot.digest`), and files of format 1, which have
none: those are opened with a warning.
"""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaot import digest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = "2"
_OLD, _MARK = "1", b'{"format": "1", '
"""The format without digests, and how its files begin to say so."""
CPU = ("CPUExecutionProvider",)


class OnnxFile(ABC):
    """A model in the files that `export.py` wrote; it pickles with their contents."""

    metadata: dict[str, Any]

    def __init__(self, path: str | Path, *, threads: int = 1, providers: Sequence[str] = CPU) -> None:
        files = self.files(Path(path))
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file} is not there: `python export.py CHECKPOINT --out {path}` writes it"
                )
        self.__setstate__((str(path), tuple(file.read_bytes() for file in files), threads, tuple(providers)))

    @classmethod
    def from_bytes(
        cls, *contents: bytes, name: str = "a file in memory", threads: int = 1, providers: Sequence[str] = CPU
    ) -> Any:
        """Open the contents of the files."""
        model = object.__new__(cls)
        model.__setstate__((name, contents, threads, tuple(providers)))
        return model

    @staticmethod
    @abstractmethod
    def files(path: Path) -> tuple[Path, ...]:
        """Return the files of the model at a path."""

    @abstractmethod
    def _open(self, names: Sequence[str], contents: Sequence[bytes], **settings: Any) -> None:
        """Open sessions with the settings; ValueError for files of another kind."""

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = name, contents, threads, providers = state
        names = list(map(str, self.files(Path(name))))
        if len(names) != len(contents):
            raise ValueError(f"{name} must be the contents of {len(names)} files, got {len(contents)}")
        self._open(names, contents, threads=threads, providers=providers)


def sessions(
    names: Sequence[str],
    contents: Sequence[bytes],
    *,
    threads: int = 1,
    providers: Sequence[str] = CPU,
    optimise: bool = True,
) -> "list[InferenceSession]":
    """Open the contents of files with threads that do not spin; ValueError, with its name, for one not ours.

    Without `optimise` they open sooner: for a few evaluations.
    """
    pairs = list(zip(names, contents, strict=True))
    for name, content in pairs:
        _require_ours(name, content)
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
    opened = []
    for name, content in pairs:
        try:
            opened.append(onnxruntime.InferenceSession(content, options, providers=list(providers)))
        except Exception as error:  # onnxruntime has no class of its own for it
            raise ValueError(f"onnxruntime cannot open {name}: {error}") from error
    return opened


def _require_ours(name: str, content: bytes) -> None:
    """Raise ValueError unless a file has the right digest at its end, or is of the format that has none."""
    if digest.is_sealed(content):
        digest.require_whole(name, content)
    elif _MARK in content:
        warnings.warn(
            f"{name} was written by an older version, without a digest: damage of it is not noticed; "
            "`metaot export CHECKPOINT` writes it anew",
            stacklevel=2,
        )
    else:
        raise ValueError(
            f"{name} was not written by metaot, or its end is missing: copy it anew, or write it with "
            "`metaot export CHECKPOINT`"
        )


def runner(opened: "InferenceSession") -> Callable[[Sequence[str], dict[str, Any], None], list[Any]]:
    """Return `opened.run` without its checks in Python, which take as long as a layer of a network."""
    return opened._sess.run  # type: ignore[union-attr]


def described(
    name: str, opened: "InferenceSession", keys: Sequence[str], kinds: Sequence[str], other: str
) -> dict[str, Any]:
    """Return what a file says of its model; ValueError unless it is one of ours, with metadata of these kinds.

    `other` is the class for files without.
    """
    found = opened.get_modelmeta().custom_metadata_map
    if "metaot" not in found:
        raise ValueError(f"{name} is no exported model: `metaot export CHECKPOINT` writes one")
    try:
        values = {key: json.loads(value) for key, value in found.items() if key != digest.KEY}
        version = values["metaot"]["format"]
    except (ValueError, KeyError, TypeError):
        values, version = {}, None
    if version not in (_OLD, FORMAT):
        raise ValueError(f"{name} has format {version!r}, this version reads {FORMAT!r}")
    if not any(kind in values for kind in kinds):
        raise ValueError(f"{name} holds another kind of model: metaot.{other} opens it")
    missing = [key for key in keys if key not in values]
    if missing:
        raise ValueError(f"{name} is damaged: it does not say its {missing[0]!r}")
    return values
