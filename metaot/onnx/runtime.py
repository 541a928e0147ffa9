"""`OnnxModel`: predictions with numpy and onnxruntime alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final, overload

import numpy as np
import onnxruntime

from metaot.onnx import checks, wire
from metaot.onnx.answers import Array, Potentials
from metaot.onnx.costs import Costs

if TYPE_CHECKING:
    from metaot.potentials import DualPotentials
    from metaot.problem import Problem

FORMAT = "1"
_CHUNK = 64
"""Instances that a graph is given at once: their intermediate values fit into the cache."""


@final
class OnnxModel:
    """A model from a file that `export.py` wrote.

    `sizes` are the numbers (n, m) of atoms, `eps` is the range (lowest, highest) of temperatures, `metadata` is
    all that the file says of the model: its recipe, space, training data and measured quality.

    One thread that does not spin, unless `threads` says otherwise; any number of Python's threads may share the
    object, and processes may be sent it (it pickles with the file's content). `providers` are onnxruntime's, best
    first, such as ("CUDAExecutionProvider", "CPUExecutionProvider"); one that is not there is an error.
    Raises FileNotFoundError, and ValueError for a file that is not ours, that has data in other files, or
    operators that are not of the ONNX standard.
    """

    def __init__(
        self, path: str | Path, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: `python export.py CHECKPOINT --out {path}` writes one")
        self._open(str(path), path.read_bytes(), threads, tuple(providers))

    @classmethod
    def from_bytes(
        cls, content: bytes, name: str = "a file in memory", *, threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> "OnnxModel":  # fmt: skip
        """Open the content of a file."""
        model = object.__new__(cls)
        model._open(name, content, threads, tuple(providers))
        return model

    def _open(self, name: str, content: bytes, threads: int, providers: tuple[str, ...]) -> None:
        self._name, self._content, self._threads, self._providers = name, content, threads, providers
        try:
            contents = wire.read(content)
        except ValueError as error:
            raise ValueError(f"{name} is {error}") from None
        _require_ours(name, contents)
        self.metadata: dict[str, Any] = {key: json.loads(text) for key, text in contents.metadata.items()}
        n, m = self.metadata["geometry"]["shape"]
        low, high = self.metadata["eps"]
        self.sizes: tuple[int, int] = (n, m)
        self.costs = Costs.of(self.metadata["geometry"], contents)
        self.eps: tuple[float, float] = (low, high)
        self._session = _session(name, content, threads, providers)
        self._run = self._session.run
        self.matching: object = None

    @overload
    def predict(self, a: "Problem") -> "DualPotentials": ...
    @overload
    def predict(self, a: Any, b: Any, *, eps: Any = None) -> Potentials: ...
    def predict(self, a: Any, b: Any = None, *, eps: Any = None) -> "Potentials | DualPotentials":
        """Return the potentials of weights a, *batch n, and b, *batch m; or those of a `Problem`.

        `eps` is a number or one for each instance; it may be left out when the model knows only one. g is the best
        for f. Arrays have the dtype of a. Raises ValueError for weights that are NaN, negative or of another mass
        than one, and for sizes, eps or a geometry that are not the model's.
        """
        if b is None:
            from metaot.onnx.problems import predict  # noqa: PLC0415, whoever has a Problem has torch

            return predict(self, a)
        a, b, eps = self._checked(a, b, eps)
        f, g = self.evaluate(a, b, eps)
        return Potentials(f, g)

    def _checked(self, a: Any, b: Any, eps: Any) -> tuple[Array, Array, Array]:
        a, b = checks.weights("a", a, self.sizes[0]), checks.weights("b", b, self.sizes[1])
        if a.shape[:-1] != b.shape[:-1]:
            raise ValueError(f"a of shape {a.shape} and b of {b.shape} differ in their batch")
        return a, b, checks.temperatures(eps, self.eps, a.shape[:-1])

    def evaluate(self, a: Array, b: Array, eps: Array) -> tuple[Array, Array]:
        """Return f and g of weights that were checked; eps one number or one for each instance."""
        (n, m), dtype = self.sizes, a.dtype
        rows_a = a.reshape(-1, n).astype(np.float64, copy=False)
        rows_b = b.reshape(-1, m).astype(np.float64, copy=False)
        if len(rows_a) <= _CHUNK:
            parts = [self._chunk(rows_a, rows_b, eps)] if len(rows_a) else [(rows_a, rows_b)]
        else:
            places = [slice(k, k + _CHUNK) for k in range(0, len(rows_a), _CHUNK)]
            parts = [self._chunk(rows_a[k], rows_b[k], eps if len(eps) == 1 else eps[k]) for k in places]
        f, g = parts[0] if len(parts) == 1 else (np.concatenate(column) for column in zip(*parts, strict=True))
        return f.reshape(a.shape).astype(dtype, copy=False), g.reshape(b.shape).astype(dtype, copy=False)

    def _chunk(self, a: Array, b: Array, eps: Array) -> tuple[Array, Array]:
        return tuple(self._run(_OUTPUTS, {"a": a, "b": b, "eps": eps}))  # type: ignore[return-value], two arrays

    def __getstate__(self) -> tuple[str, bytes, int, tuple[str, ...]]:
        return self._name, self._content, self._threads, self._providers

    def __setstate__(self, state: tuple[str, bytes, int, tuple[str, ...]]) -> None:
        self._open(*state)

    def __repr__(self) -> str:
        low, high = self.eps
        where = self.metadata["geometry"]["description"]
        return f"OnnxModel({self._name!r}: {where}, eps in [{low:g}, {high:g}])"


_OUTPUTS = ["f", "g"]


def _require_ours(name: str, contents: wire.OnnxContents) -> None:
    if contents.external:
        raise ValueError(f"{name} has the data of {contents.external[0]!r} in another file: use one whole file")
    if contents.foreign:
        raise ValueError(f"{name} wants {contents.foreign[0]!r}, which is not an operator of the ONNX standard")
    found = contents.metadata.get("metaot")
    if found is None:
        raise ValueError(f"{name} was not written by metaot: `python export.py CHECKPOINT` writes one")
    if json.loads(found)["format"] != FORMAT:
        raise ValueError(f"{name} has format {json.loads(found)['format']!r}, this version reads {FORMAT!r}")


def _session(name: str, content: bytes, threads: int, providers: tuple[str, ...]) -> onnxruntime.InferenceSession:
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    there = onnxruntime.get_available_providers()
    missing = [provider for provider in providers if provider not in there]
    if missing or not providers:
        raise ValueError(f"providers must be of {there}, got {list(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime has no class of its own for it
        raise ValueError(f"onnxruntime cannot open {name}: {error}") from error
