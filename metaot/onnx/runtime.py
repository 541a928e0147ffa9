"""`OnnxModel`: predictions with numpy and onnxruntime only."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final, overload

import numpy as np

from metaot import core, digest
from metaot.arrays import require_limits, require_spreads, spread_words
from metaot.core import method
from metaot.core.plan import Plans
from metaot.folders import eps_range
from metaot.onnx import checks
from metaot.onnx.files import OnnxFile, described, runner, sessions
from metaot.onnx.solution import OnnxSolution, Potentials

if TYPE_CHECKING:
    from metaot.geometry import Geometry
    from metaot.potentials import DualPotentials
    from metaot.problem import Problem

Array = np.ndarray

METADATA = ("metaot", "model", "passes", "recipe", "data", "eps", "quality")
"""What the file says of the model, each as JSON; and its `geometry`, or `images` for images of any size, or
`costs` for costs of each problem's own."""
_CHUNK, _TERMS = 64, 2**24
"""Instances that a graph is given at once; and terms of sums in the log domain, 128 MiB."""
_OUTPUTS = ["f", "g"]
_WITH_SPREAD = [*_OUTPUTS, "spread"]


@final
class OnnxModel(OnnxFile):
    """A model of potentials from a file that `export.py` wrote.

    It is for one geometry, for images of any size, or for problems with cost matrices of their own.

    `eps` is the range (lowest, highest) of temperatures, `metadata` is all that the file says of the model: its
    recipe, space, training data and measured quality. `sizes` are the numbers (n, m) of atoms of a model for one
    geometry; None for images of any size, whose pixels lie evenly on the unit square from edge to edge, with the
    cost |x - y|^2: as on `Grid(height, width)`; and None for problems with costs of their own, whose `spreads`
    are by how many eps these may differ in the mean, and whose `eps` is None.

    One thread that does not spin, unless `threads` says otherwise; any number of Python's threads may share the
    object, and processes may be sent it (it pickles with the file's content). `providers` are onnxruntime's, best
    first, such as ("CUDAExecutionProvider", "CPUExecutionProvider"); one that is not there is an error.
    Raises FileNotFoundError, and ValueError for a file that is not ours or that onnxruntime cannot open.
    """

    @staticmethod
    def files(path: Path) -> tuple[Path, ...]:
        return (path,)

    def _open(self, names: Sequence[str], contents: Sequence[bytes], **settings: Any) -> None:
        (opened,) = sessions(names, contents, **settings)
        self.metadata = described(names[0], opened, METADATA, ("geometry", "images", "costs"), "OnnxMap")
        self._run = runner(opened)
        try:
            geometry = self.metadata.get("geometry")
            self.sizes: tuple[int, int] | None = tuple(geometry["shape"]) if geometry else None
            self.grid: tuple[int, ...] = tuple(geometry["sizes"]) if geometry else ()
            costs = self.metadata.get("costs")
            self.spreads: tuple[float, float] | None = _pair(costs["spreads"]) if costs else None
            self.eps: tuple[float, float] | None = None if costs else eps_range(self.metadata["eps"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{names[0]} is damaged: {error}; {digest.AGAIN}") from error
        """The numbers of points along the axes of the geometry; empty if it has none."""
        self.matching: object = None

    @overload
    def predict(self, a: "Problem") -> "DualPotentials": ...
    @overload
    def predict(self, a: Any, b: Any, *, C: Any = None, eps: Any = None) -> Potentials: ...
    def predict(self, a: Any, b: Any = None, *, C: Any = None, eps: Any = None) -> "Potentials | DualPotentials":
        """Return the potentials of weights a, *batch n, and b, *batch m; or those of a `Problem`.

        On a grid weights may be images, *batch height width, and are if these may have any size; potentials have
        their shape. `eps` is a number or one for each instance; it may be left out when the model knows only one.
        `C` is for models that read costs: n m, or *batch n m, where +inf forbids a pair. g is the best for f.
        Arrays have the dtype of a. Raises ValueError for weights that are NaN, negative or of another mass than
        one, and for sizes, eps, costs or a geometry that are not the model's.
        """
        if b is None:
            from metaot.onnx.problems import predict  # noqa: PLC0415, whoever has a Problem has torch

            return predict(self, a)
        rows = self._rows(a, b, C, eps)
        return Potentials(*rows.shaped(*self._evaluated(rows)))

    def solve(
        self, a: Any, b: Any, *, C: Any = None, eps: Any = None, tol: float = 1e-6, max_steps: int = 10_000
    ) -> OnnxSolution:
        """Return refined potentials of weights as for `predict`, each to an L1 marginal error `tol`.

        The file predicts; accelerated Sinkhorn, and Newton on the atoms with mass, for up to a few thousand of
        them, do the rest beside it. float64 inside. Raises ValueError as `predict`; not converging within
        `max_steps` is a result.
        """
        tol, max_steps = require_limits(tol, max_steps)
        rows = self._rows(a, b, C, eps)
        start, _ = self._evaluated(rows, with_g=False)
        costs = self._costs_of(rows)
        a, b = (weights / weights.sum(-1, keepdims=True) for weights in (rows.a, rows.b))
        eps = np.broadcast_to(rows.eps, len(a)).astype(np.float64)
        start = start.reshape(a.shape)  # images have two axes
        f, g, error, steps = self._refined(costs, (a, b, eps), start, tol=tol, max_steps=max_steps)
        error, steps, converged = (z.reshape(rows.batch) for z in (error, steps, error <= tol))
        plans = Plans(costs, a, b, eps, f, g)
        return OnnxSolution(*rows.shaped(f, g), error, steps, converged, plans, max_steps)

    def _refined(
        self, costs: tuple[Array, ...], problems: tuple[Array, Array, Array], f: Array, **limits: Any
    ) -> core.Result:
        """Refine f for weights whose masses are equal to the last digit.

        Compiled code makes the steps, or torch where there is none.
        """
        a, b, eps = problems
        if core.COMPILED:
            back_end = core.Compiled(core.Costs.on_axes(costs), a, b, eps, threads=self._state[2])
            return method.choose(back_end, f, method.Limits(**limits))[0]
        try:
            from metaot.onnx.problems import refined  # noqa: PLC0415, compiled code needs no torch
        except ImportError:
            raise RuntimeError(
                "solving needs compiled code or torch: install metaot where there is a C compiler, or torch"
            ) from None
        return refined(costs, a, b, eps, f, **limits)

    @cached_property
    def costs(self) -> tuple[Array, ...]:
        """The cost matrix of the model's geometry, or one for each axis of a grid; outputs of the graph."""
        if self.eps is None:
            raise AttributeError("the model reads costs, and has none of its own")
        axes: list[str] = self.metadata["geometry"]["costs"]
        names = sorted(set(axes))
        a, b = (np.full((1, n), 1 / n) for n in self.sizes or ())
        found = self._run(names, {"a": a, "b": b, "eps": np.array(self.eps[1:])}, None)
        return tuple(found[names.index(name)] for name in axes)

    def _costs_of(self, rows: "Rows") -> tuple[Array, ...]:
        """Return the cost matrix, one for each instance, or one for each axis of a grid."""
        if rows.C is not None:
            return (rows.C[0] if len(rows.C) == 1 else rows.C,)
        return self.costs if rows.image is None else tuple(map(_squared_distances, rows.image))

    def _rows(self, a: Any, b: Any, C: Any, eps: Any) -> "Rows":
        """Check weights, costs and temperatures."""
        a, b = checks.array("a", a), checks.array("b", b)
        shapes = a.shape, b.shape
        if self.spreads is not None:
            return self._rows_with_costs(a, b, C, eps)
        if C is not None:
            raise ValueError("the model knows its costs, and reads none: leave C out")
        image = None
        if self.sizes is None:
            if a.ndim < 2 or a.shape != b.shape:
                raise ValueError(
                    f"a and b must be images of one shape (*batch, height, width), got {a.shape}, {b.shape}"
                )
            image = a.shape[-2:]
        grid = image or self.grid
        n, m = self.sizes or (math.prod(grid),) * 2
        if image or len(grid) > 1:
            dims = len(grid)
            a, b = (
                w.reshape(*w.shape[:-dims], n) if w.shape[-dims:] == grid and (image or w.shape[-1] != n) else w
                for w in (a, b)
            )
        return _rows(checks.weights("a", a, n), checks.weights("b", b, m), eps, self.eps)._replace(
            shapes=shapes, image=image
        )

    @staticmethod
    def _rows_with_costs(a: Array, b: Array, C: Any, eps: Any) -> "Rows":
        """Check weights and temperatures of problems with their own costs."""
        if C is None:
            raise ValueError("the model reads costs: say C=..., a cost matrix (n, m), or one for each problem")
        n, m = (w.shape[-1] if w.ndim else 0 for w in (a, b))
        C = checks.costs(C, (n, m), a.shape[:-1])
        rows = _rows(checks.weights("a", a, n), checks.weights("b", b, m), eps, None)
        return rows._replace(C=C)

    def _evaluated(self, rows: "Rows", *, with_g: bool = True) -> list[Array]:
        """Return f and g of weights that were checked; ValueError where costs are unlike those of the training.

        A g that is not wanted may be anything.
        """
        if self.spreads is None:
            return self._in_parts(rows, _OUTPUTS, {})
        f, g, spread = self._in_parts(rows, _WITH_SPREAD, {"with_g": np.array(with_g)})
        require_spreads(spread.tolist(), self.spreads)
        return [f, g]

    def _in_parts(self, rows: "Rows", outputs: list[str], more: dict[str, Array]) -> list[Array]:
        """Evaluate the graph, for large batches in parts."""
        a, b, eps, C = rows.a, rows.b, rows.eps, rows.C
        sizes = rows.image or self.grid or b.shape[1:]
        size = max(1, min(_CHUNK, _TERMS // (a.shape[1] * max(sizes))))
        if rows.image is not None:
            a, b = (w.reshape(len(w), *rows.image) for w in (a, b))
        if 0 < len(a) <= size and (C is None or len(C) == len(a)):
            matrix = {} if C is None else {"C": C}
            return self._run(outputs, {"a": a, "b": b, "eps": eps, **matrix, **more}, None)
        found = [np.empty(a.shape), np.empty(b.shape), np.empty(len(a))][: len(outputs)]
        for k in (slice(begin, begin + size) for begin in range(0, len(a), size)):
            feeds = {"a": a[k], "b": b[k], "eps": eps if len(eps) == 1 else eps[k], **more}
            if C is not None:
                feeds["C"] = np.repeat(C, len(a[k]), 0) if len(C) == 1 else C[k]
            for whole, part in zip(found, self._run(outputs, feeds, None), strict=True):
                whole[k] = part
        return found

    @cached_property
    def geometry(self) -> "Geometry | None":
        """The space of the model, whose costs are in the file; None for images of any size. It needs torch."""
        if self.sizes is None:
            return None
        from metaot.onnx.problems import geometry_of  # noqa: PLC0415, the file is opened without torch

        return geometry_of(self)

    def __repr__(self) -> str:
        name = self._state[0]
        if self.spreads is not None:
            return f"OnnxModel for {spread_words(self.spreads)} ({name})"
        assert self.eps is not None
        low, high = self.eps
        where = f"problems on {self.metadata['geometry']['description']}" if self.sizes else "images of any size"
        eps = f"eps {low:g}" if low == high else f"eps from {low:g} to {high:g}"
        return f"OnnxModel for {where}, {eps} ({name})"


@final
class Rows(NamedTuple):
    """Weights that were checked, a row for each instance, float64, and how answers are shaped."""

    a: Array
    b: Array
    eps: Array
    """One number, or one for each instance."""
    batch: tuple[int, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: np.dtype
    image: tuple[int, ...] | None = None
    """The size of the images, for a model that takes any."""
    C: Array | None = None
    """One matrix, or one for each instance, for a model that reads them."""

    def shaped(self, f: Array, g: Array) -> tuple[Array, Array]:
        """Return f and g in the shapes and the dtype of the weights."""
        pairs = zip((f, g), self.shapes, strict=True)
        f, g = (values.reshape(shape).astype(self.dtype, copy=False) for values, shape in pairs)
        return f, g


def _rows(a: Array, b: Array, eps: Any, bounds: tuple[float, float] | None) -> Rows:
    """Return checked weights as rows, with their temperatures; ValueError for batches that differ."""
    shapes = a.shape, b.shape
    batch = a.shape[:-1]
    if batch != b.shape[:-1]:
        raise ValueError(f"a of shape {a.shape} and b of {b.shape} differ in their batch")
    a64, b64 = (w.reshape(-1, w.shape[-1]).astype(np.float64, copy=False) for w in (a, b))
    return Rows(a64, b64, checks.temperatures(eps, bounds or checks.ANY, batch), batch, shapes, a.dtype)


def _pair(values: Any) -> tuple[float, float]:
    low, high = map(float, values)
    return low, high


def _squared_distances(size: int) -> Array:
    """Return the costs between points that lie evenly on [0, 1]."""
    axis = np.linspace(0, 1, size)
    return (axis[:, None] - axis) ** 2
