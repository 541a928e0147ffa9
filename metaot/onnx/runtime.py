"""`OnnxModel`: predictions with numpy and onnxruntime only."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final, overload

import numpy as np

from metaot import core, digest
from metaot.arrays import require_limits
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
"""What the file says of the model, each as JSON; and its `geometry`, or `images` for images of any size."""
_CHUNK, _TERMS = 64, 2**24
"""Instances that a graph is given at once; and terms of sums in the log domain, 128 MiB."""
_OUTPUTS = ["f", "g"]


@final
class OnnxModel(OnnxFile):
    """A model of potentials from a file that `export.py` wrote: for one geometry, or for images of any size.

    `eps` is the range (lowest, highest) of temperatures, `metadata` is all that the file says of the model: its
    recipe, space, training data and measured quality. `sizes` are the numbers (n, m) of atoms of a model for one
    geometry; None for images of any size, whose pixels lie evenly on the unit square from edge to edge, with the
    cost |x - y|^2: as on `Grid(height, width)`.

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
        self.metadata = described(names[0], opened, METADATA, ("geometry", "images"), "OnnxMap")
        self._run = runner(opened)
        try:
            self.eps: tuple[float, float] = eps_range(self.metadata["eps"])
            geometry = self.metadata.get("geometry")
            self.sizes: tuple[int, int] | None = tuple(geometry["shape"]) if geometry else None
            self.grid: tuple[int, ...] = tuple(geometry["sizes"]) if geometry else ()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{names[0]} is damaged: {error}; {digest.AGAIN}") from error
        """The numbers of points along the axes of the geometry; empty if it has none."""
        self.matching: object = None

    @overload
    def predict(self, a: "Problem") -> "DualPotentials": ...
    @overload
    def predict(self, a: Any, b: Any, *, eps: Any = None) -> Potentials: ...
    def predict(self, a: Any, b: Any = None, *, eps: Any = None) -> "Potentials | DualPotentials":
        """Return the potentials of weights a, *batch n, and b, *batch m; or those of a `Problem`.

        On a grid weights may be images, *batch height width, and are if these may have any size; potentials have
        their shape. `eps` is a number or one for each instance; it may be left out when the model knows only one.
        g is the best for f. Arrays have the dtype of a. Raises ValueError for weights that are NaN, negative or of
        another mass than one, and for sizes, eps or a geometry that are not the model's.
        """
        if b is None:
            from metaot.onnx.problems import predict  # noqa: PLC0415, whoever has a Problem has torch

            return predict(self, a)
        rows = self._rows(a, b, eps)
        return Potentials(*rows.shaped(*self._evaluated(rows)))

    def solve(
        self, a: Any, b: Any, *, eps: Any = None, tol: float = 1e-6, max_steps: int = 10_000
    ) -> OnnxSolution:
        """Return refined potentials of weights as for `predict`, each to an L1 marginal error `tol`.

        The file predicts; accelerated Sinkhorn, and Newton on the atoms with mass, for up to a few thousand of
        them, do the rest beside it. float64 inside. Raises ValueError as `predict`; not converging within
        `max_steps` is a result.
        """
        tol, max_steps = require_limits(tol, max_steps)
        rows = self._rows(a, b, eps)
        start, _ = self._evaluated(rows)
        costs = self.costs if rows.image is None else tuple(map(_squared_distances, rows.image))
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
        axes: list[str] = self.metadata["geometry"]["costs"]
        names = sorted(set(axes))
        a, b = (np.full((1, n), 1 / n) for n in self.sizes or ())
        found = self._run(names, {"a": a, "b": b, "eps": np.array([self.eps[1]])}, None)
        return tuple(found[names.index(name)] for name in axes)

    def _rows(self, a: Any, b: Any, eps: Any) -> "Rows":
        """Check weights and temperatures."""
        a, b = checks.array("a", a), checks.array("b", b)
        shapes = a.shape, b.shape
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
        a, b = checks.weights("a", a, n), checks.weights("b", b, m)
        batch = a.shape[:-1]
        if batch != b.shape[:-1]:
            raise ValueError(f"a of shape {a.shape} and b of {b.shape} differ in their batch")
        a64, b64 = (w.reshape(-1, w.shape[-1]).astype(np.float64, copy=False) for w in (a, b))
        return Rows(a64, b64, checks.temperatures(eps, self.eps, batch), batch, shapes, a.dtype, image)

    def _evaluated(self, rows: "Rows") -> list[Array]:
        """Return f and g of weights that were checked."""
        a, b, eps = rows.a, rows.b, rows.eps
        sizes = rows.image or self.grid or b.shape[1:]
        size = max(1, min(_CHUNK, _TERMS // (a.shape[1] * max(sizes))))
        if rows.image is not None:
            a, b = (w.reshape(len(w), *rows.image) for w in (a, b))
        if 0 < len(a) <= size:
            return self._run(_OUTPUTS, {"a": a, "b": b, "eps": eps}, None)
        found = [np.empty(a.shape), np.empty(b.shape)]
        for k in (slice(begin, begin + size) for begin in range(0, len(a), size)):
            feeds = {"a": a[k], "b": b[k], "eps": eps if len(eps) == 1 else eps[k]}
            found[0][k], found[1][k] = self._run(_OUTPUTS, feeds, None)
        return found

    @cached_property
    def geometry(self) -> "Geometry | None":
        """The space of the model, whose costs are in the file; None for images of any size. It needs torch."""
        if self.sizes is None:
            return None
        from metaot.onnx.problems import geometry_of  # noqa: PLC0415, the file is opened without torch

        return geometry_of(self)

    def __repr__(self) -> str:
        (low, high), name = self.eps, self._state[0]
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
    image: tuple[int, ...] | None
    """The size of the images, for a model that takes any."""

    def shaped(self, f: Array, g: Array) -> tuple[Array, Array]:
        """Return f and g in the shapes and the dtype of the weights."""
        pairs = zip((f, g), self.shapes, strict=True)
        f, g = (values.reshape(shape).astype(self.dtype, copy=False) for values, shape in pairs)
        return f, g


def _squared_distances(size: int) -> Array:
    """Return the costs between points that lie evenly on [0, 1]."""
    axis = np.linspace(0, 1, size)
    return (axis[:, None] - axis) ** 2
