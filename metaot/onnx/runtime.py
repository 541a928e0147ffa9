"""`OnnxModel`: predictions with numpy and onnxruntime alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final, overload

import numpy as np
import onnxruntime

from metaot.onnx import checks, wire
from metaot.onnx.answers import Array, OnnxSolution, Potentials
from metaot.onnx.costs import Costs
from metaot.onnx.refine import Limits, refine_rows

if TYPE_CHECKING:
    from metaot.potentials import DualPotentials
    from metaot.problem import Problem

FORMAT = "1"
METADATA = ("metaot", "model", "passes", "recipe", "data", "geometry", "eps", "quality")
"""What the file says of the model, each as JSON."""
_CHUNK = 64
"""Instances that a graph is given at once: their intermediate values fit into the cache."""


@final
class OnnxModel:
    """A model from a file that `export.py` wrote.

    `sizes` are the numbers (n, m) of atoms, `eps` is the range (lowest, highest) of temperatures, `metadata` is
    all that the file says of the model: its recipe, space, training data and measured quality. `refines` tells
    whether the graph can make Sinkhorn steps itself.

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
        require_ours(name, contents, "geometry", "OnnxMap")
        self.metadata: dict[str, Any] = {key: json.loads(contents.metadata[key]) for key in METADATA}
        n, m = self.metadata["geometry"]["shape"]
        low, high = self.metadata["eps"]
        self.sizes: tuple[int, int] = (n, m)
        self.costs = Costs.of(self.metadata["geometry"], contents)
        self.eps: tuple[float, float] = (low, high)
        self._session = session(name, content, threads, providers)
        self._run: Callable[[Sequence[str], dict[str, Array]], list[Array]] = self._session.run  # type: ignore[assignment]
        self.refines = "tol" in {value.name for value in self._session.get_inputs()}
        self._no_steps = {"tol": np.array(1.0), "max_steps": np.array(0)} if self.refines else {}
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

    def solve(
        self, a: Any, b: Any, *, eps: Any = None, tol: float = 1e-6, max_steps: int = 10_000
    ) -> OnnxSolution:
        """Return refined potentials of weights a, *batch n, and b, *batch m, each to an L1 marginal error `tol`.

        The file predicts; accelerated Sinkhorn, and Newton on the atoms with mass, for up to a few thousand of
        them, do the rest beside it: sooner than the plain steps in the graph of a file that was exported with
        `--refine`, which are for other languages. float64 inside. Raises ValueError as `predict`; not converging
        within `max_steps` is a result.
        """
        tol, max_steps = checks.limits(tol, max_steps)
        a, b, eps = self._checked(a, b, eps)
        rows_a, rows_b = (w.reshape(-1, w.shape[-1]).astype(np.float64, copy=False) for w in (a, b))
        start, _ = self.evaluate(rows_a, rows_b, eps)
        f, g, error, steps = refine_rows(self.costs, (rows_a, rows_b), eps, start, Limits(tol, max_steps))
        batch = a.shape[:-1]
        shaped = (values.reshape(batch) for values in (error, steps, error <= tol))
        return OnnxSolution(f.reshape(a.shape).astype(a.dtype), g.reshape(b.shape).astype(a.dtype), *shaped)

    def graph(
        self, a: Array, b: Array, eps: Array, *, tol: float | None = None, max_steps: int = 0
    ) -> list[Array]:
        """Return what the graph says of float64 weights, batch n and batch m, and eps, 1 or batch; unchecked.

        That is (f, g); with `tol`, of a file that `refines`, (f, g, error, steps) after Sinkhorn steps to this L1
        error.
        """
        if tol is None:
            return self._run(PREDICTED, {"a": a, "b": b, "eps": eps, **self._no_steps})
        limits = {"tol": np.array(tol), "max_steps": np.array(max_steps)}
        return self._run(REFINED, {"a": a, "b": b, "eps": eps, **limits})

    def _checked(self, a: Any, b: Any, eps: Any) -> tuple[Array, Array, Array]:
        a, b = checks.weights("a", a, self.sizes[0]), checks.weights("b", b, self.sizes[1])
        if a.shape[:-1] != b.shape[:-1]:
            raise ValueError(f"a of shape {a.shape} and b of {b.shape} differ in their batch")
        return a, b, checks.temperatures(eps, self.eps, a.shape[:-1])

    def evaluate(self, a: Array, b: Array, eps: Array) -> tuple[Array, Array]:
        """Return f and g of weights that were checked; eps one number or one for each instance."""
        if a.ndim == 2 and 0 < len(a) <= _CHUNK and a.dtype == b.dtype == np.float64:
            f, g = self.graph(a, b, eps)
            return f, g
        rows_a, rows_b = (w.reshape(-1, w.shape[-1]).astype(np.float64, copy=False) for w in (a, b))
        f, g = np.empty(rows_a.shape), np.empty(rows_b.shape)
        for k in (slice(begin, begin + _CHUNK) for begin in range(0, len(f), _CHUNK)):
            f[k], g[k] = self.graph(rows_a[k], rows_b[k], eps if len(eps) == 1 else eps[k])
        return f.reshape(a.shape).astype(a.dtype, copy=False), g.reshape(b.shape).astype(a.dtype, copy=False)

    def __getstate__(self) -> tuple[str, bytes, int, tuple[str, ...]]:
        return self._name, self._content, self._threads, self._providers

    def __setstate__(self, state: tuple[str, bytes, int, tuple[str, ...]]) -> None:
        self._open(*state)

    def __repr__(self) -> str:
        low, high = self.eps
        where = self.metadata["geometry"]["description"]
        return f"OnnxModel({self._name!r}: {where}, eps in [{low:g}, {high:g}])"


PREDICTED = ["f", "g"]
REFINED = ["f", "g", "error", "steps"]


def require_ours(name: str, contents: wire.OnnxContents, kind: str, other: str) -> None:
    """Raise ValueError unless a file is ours, whole, of standard operators and with metadata of this kind."""
    if contents.external:
        raise ValueError(f"{name} has the data of {contents.external[0]!r} in another file: use one whole file")
    if contents.foreign:
        raise ValueError(f"{name} wants {contents.foreign[0]!r}, which is not an operator of the ONNX standard")
    found = contents.metadata.get("metaot")
    if found is None:
        raise ValueError(f"{name} was not written by metaot: `python export.py CHECKPOINT` writes one")
    try:
        version = json.loads(found)["format"]
    except (ValueError, KeyError, TypeError):
        version = None
    if version != FORMAT:
        raise ValueError(f"{name} has format {version!r}, this version reads {FORMAT!r}")
    if kind not in contents.metadata:
        raise ValueError(f"{name} holds another kind of model: metaot.{other} opens it")


def session(name: str, content: bytes, threads: int, providers: tuple[str, ...]) -> onnxruntime.InferenceSession:
    """Open a file with threads that do not spin."""
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
    options.add_session_config_entry("session.disable_prepacking", "1")  # one problem: a tenth faster without
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime has no class of its own for it
        raise ValueError(f"onnxruntime cannot open {name}: {error}") from error
