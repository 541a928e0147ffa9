"""`OnnxUniversal`: potentials of images of any size, with numpy and onnxruntime alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import onnxruntime

from metaot.onnx import checks, wire
from metaot.onnx.answers import Array, OnnxSolution, Potentials
from metaot.onnx.costs import Costs
from metaot.onnx.refine import Limits, refine_rows
from metaot.onnx.runtime import require_ours, session

METADATA = ("metaot", "model", "passes", "recipe", "data", "images", "eps", "quality")
"""What the file says of the model, each as JSON."""
BY_LOGS, PLAIN = ["f", "g"], ["plain_f", "plain_g"]
"""The outputs of the graph: right at every eps, and those that are quicker above the eps that the file names."""
_TERMS = 2**24
"""Terms of sums that a graph holds at once: 128 MiB."""


@final
class OnnxUniversal:
    """The universal model from the file that `export.py` wrote.

    For pairs of images of one size, any size, whose pixels lie evenly on the unit square from edge to edge, with
    the cost |x - y|^2: as on `Grid(height, width)`. `eps` is the range of temperatures, `metadata` all that the
    file says of the model. Threads, providers, pickling and errors as for `OnnxModel`.
    """

    def __init__(
        self, path: str | Path, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: `python export.py checkpoints/universal` writes one")
        self._open(str(path), path.read_bytes(), threads, tuple(providers))

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "a file in memory") -> "OnnxUniversal":
        """Open the content of a file."""
        model = object.__new__(cls)
        model._open(name, content, 1, ("CPUExecutionProvider",))
        return model

    def _open(self, name: str, content: bytes, threads: int, providers: tuple[str, ...]) -> None:
        self._state = (name, content, threads, providers)
        try:
            contents = wire.read(content)
        except ValueError as error:
            raise ValueError(f"{name} is {error}") from None
        require_ours(name, contents, "images", "OnnxModel")
        self.metadata: dict[str, Any] = {key: json.loads(contents.metadata[key]) for key in METADATA}
        low, high = self.metadata["eps"]
        self.eps: tuple[float, float] = (low, high)
        self._session = session(name, content, threads, providers)
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True

    def predict(self, a: Any, b: Any, *, eps: Any) -> Potentials:
        """Return the potentials of images a and b, *batch height width, each of mass one, in their shape.

        `eps` is a number or one for each instance. g is the best for f. Raises ValueError for images that are NaN,
        negative or of another mass than one, for shapes that differ, and for eps out of range.
        """
        a, b, eps = self._checked(a, b, eps)
        f, g = self._evaluate(a, b, eps)
        return Potentials(f.reshape(a.shape).astype(a.dtype), g.reshape(a.shape).astype(a.dtype))

    def solve(self, a: Any, b: Any, *, eps: Any, tol: float = 1e-6, max_steps: int = 10_000) -> OnnxSolution:
        """Return potentials refined to an L1 marginal error `tol`, as `OnnxModel.solve`."""
        tol, max_steps = checks.limits(tol, max_steps)
        a, b, eps = self._checked(a, b, eps)
        f, _ = self._evaluate(a, b, eps)
        costs, pixels = _costs(a.shape[-2:]), a.shape[-2] * a.shape[-1]
        rows_a, rows_b = (w.reshape(-1, pixels).astype(np.float64, copy=False) for w in (a, b))
        limits = Limits(tol, max_steps)
        f, g, error, steps = refine_rows(costs, (rows_a, rows_b), eps, f.reshape(-1, pixels), limits)
        batch = a.shape[:-2]
        shaped = (values.reshape(batch) for values in (error, steps, error <= tol))
        potentials = (values.reshape(a.shape).astype(a.dtype) for values in (f, g))
        return OnnxSolution(*potentials, *shaped)

    def _checked(self, a: Any, b: Any, eps: Any) -> tuple[Array, Array, Array]:
        a, b = np.asarray(a), np.asarray(b)
        if a.ndim < 2 or a.shape != b.shape:
            raise ValueError(
                f"a and b must be images of one shape (*batch, height, width), got {a.shape}, {b.shape}"
            )
        flat = (*a.shape[:-2], a.shape[-2] * a.shape[-1])
        for name, images in (("a", a), ("b", b)):
            checks.weights(name, images.reshape(flat), flat[-1])
        return a, b, checks.temperatures(eps, self.eps, a.shape[:-2])

    def _evaluate(self, a: Array, b: Array, eps: Array) -> tuple[Array, Array]:
        height, width = a.shape[-2:]
        images = [w.reshape(-1, height, width).astype(np.float64, copy=False) for w in (a, b)]
        count = len(images[0])
        if count == 0:
            return np.empty((0, height, width)), np.empty((0, height, width))
        plain = float(eps.min()) >= self.metadata["images"]["plain_from"]
        size = max(1, _TERMS // (height * width * (1 if plain else max(height, width))))
        parts = []
        for start in range(0, count, size):
            rows = slice(start, start + size)
            feeds = {"a": images[0][rows], "b": images[1][rows], "eps": eps if len(eps) == 1 else eps[rows]}
            parts.append(self._session.run(PLAIN if plain else BY_LOGS, feeds, self._options))
        f, g = (np.concatenate(column) for column in zip(*parts, strict=True))
        return f, g

    def __getstate__(self) -> tuple[Any, ...]:
        return self._state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._open(*state)

    def __repr__(self) -> str:
        low, high = self.eps
        return f"OnnxUniversal({self._state[0]!r}: images of any size, eps in [{low:g}, {high:g}])"


def _costs(sizes: tuple[int, ...]) -> Costs:
    axes = [np.linspace(0, 1, size) for size in sizes]
    return Costs(tuple((axis[:, None] - axis) ** 2 for axis in axes), tuple(sizes))
