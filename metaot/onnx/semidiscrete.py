"""`OnnxSemiDiscrete`: points coupled with a data set, with numpy and onnxruntime only."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from metaot.arrays import as_array
from metaot.onnx.checks import first_place
from metaot.onnx.files import OnnxFile, described, runner, sessions

Array = np.ndarray

METADATA = ("metaot", "model", "recipe", "data_set", "quality")
"""What the file says, each as JSON."""
_KEY, _TAIL = b"data_set", 2**16
_ENTRIES = 2**24


@final
class OnnxSemiDiscrete(OnnxFile):
    """A data set with its potential from a file that `metaot export` wrote; see `metaot.SemiDiscrete`.

    `eps` is the temperature, 0 for none, `shape` the numbers of points and of dimensions, `metadata` all that the
    file says. Threads, providers, pickling and errors as for `OnnxModel`.
    """

    @staticmethod
    def files(path: Path) -> tuple[Path, ...]:
        return (path,)

    @staticmethod
    def is_in(path: Path) -> bool:
        """Return whether a file says that it holds a data set."""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return _KEY in file.read()

    def _open(self, names: Sequence[str], contents: Sequence[bytes], **settings: Any) -> None:
        (opened,) = sessions(names, contents, **settings)
        self.metadata = described(names[0], opened, METADATA, ("data_set",), "OnnxModel")
        found = self.metadata["data_set"]
        self.eps: float = found["eps"]
        self.shape: tuple[int, int] = tuple(found["shape"])
        self._dtype, self._run = np.dtype(found["dtype"]), runner(opened)

    @cached_property
    def y(self) -> Array:
        """The data, m d."""
        return self._run(["y"], {"x": np.zeros((1, self.shape[1]), self._dtype)}, None)[0]

    def assign(self, x: Any, generator: np.random.Generator | None = None) -> Array:
        """Return the number of one of the data for each of the points x, k *shape.

        Without a temperature the best one; else drawn by `generator` with the probabilities of the plan.
        """
        if not self.eps:
            return self._joined(scores.argmax(1) for scores, _ in self._scores(x))
        draw = np.random.default_rng() if generator is None else generator
        return self._joined(_drawn(_softmax(scores / self.eps), draw) for scores, _ in self._scores(x))

    def map(self, x: Any) -> Array:
        """Return where points x, k *shape, are sent: to one of the data, or to the mean of these, k d."""
        if not self.eps:
            return self.y[self.assign(x)]
        return self._joined(_softmax(scores / self.eps) @ self.y for scores, _ in self._scores(x))

    def potential(self, x: Any) -> Array:
        """Return the potential f at points x, k *shape."""
        return self._joined(own - self._softmax_of(scores) for scores, own in self._scores(x))

    def _softmax_of(self, scores: Array) -> Array:
        top = scores.max(1)
        if not self.eps:
            return top
        return top + self.eps * np.log(np.exp((scores - top[:, None]) / self.eps).sum(1))

    def _joined(self, parts: Iterator[Array]) -> Array:
        return np.concatenate(list(parts))

    def _scores(self, x: Any) -> Iterator[tuple[Array, Array]]:
        """Yield the scores of successive points, and what of f depends on these only."""
        points = as_array("x", x, "points (an array or a list)")
        points = points.reshape(len(points), -1).astype(self._dtype, copy=False) if points.ndim > 1 else points
        m, d = self.shape
        if points.ndim != 2 or points.shape[1] != d:
            raise ValueError(f"x must have {d} numbers in a point, as the data have, got the shape {points.shape}")
        bad = ~np.isfinite(points)
        if bad.any():
            raise ValueError(f"x must be finite, got x{first_place(bad, points)}")
        step = max(1, _ENTRIES // m)
        for start in range(0, max(1, len(points)), step):
            scores, own = self._run(["scores", "own"], {"x": points[start : start + step]}, None)
            yield scores, own

    def __repr__(self) -> str:
        m, d = self.shape
        return f"OnnxSemiDiscrete to {m} data in dimension {d} ({self._state[0]})"


def _softmax(z: Array) -> Array:
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _drawn(p: Array, generator: np.random.Generator) -> Array:
    """Draw a column for each row, by the row's masses."""
    ends = p.cumsum(1)
    u = generator.random((len(p), 1)).astype(p.dtype) * ends[:, -1:]
    return (ends <= u).sum(1).clip(max=p.shape[1] - 1)
