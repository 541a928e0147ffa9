"""The user's own problems: a folder that `write_problems` made from arrays, read back through `datasets`.

folder/problems      a Hugging Face data set with the columns a and b (fixed-length float32); where problems have
                     costs of their own, also C (float32, row by row), or parameters (float64)
folder/geometry.npz  the geometry of all problems, if they share one: C, or x and y
folder/card.json     the cost's name or function, and eps
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from metaot.arrays import as_array
from metaot.data.base import EpsRange, ProblemSet, Source, Split
from metaot.data.own_costs import (
    CostFunction,
    StoredCosts,
    computed_matrices,
    function_name,
    matrix_at,
    named_function,
    require_matrix,
    stored_matrices,
)
from metaot.geometry import Dense, Geometry, Points
from metaot.measures import read_archive
from metaot.problem import Problem
from metaot.settings import require_eps, require_whole

_PART = 20
"""Of every twenty problems, one is held out for validation and one for test, the last two."""
_BLOCK = 2**24
"""Numbers of a column that are written at once."""


def write_problems(
    folder: str | Path,
    a: ArrayLike,
    b: ArrayLike,
    *,
    eps: float | tuple[float, float],
    C: ArrayLike | None = None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    parameters: ArrayLike | None = None,
    cost: str | CostFunction = "sqeuclidean",
) -> Path:
    """Write problems to a new folder, for the recipe `problems`.

    `a` (count, n) and `b` (count, m) are the weights, row by row. All problems share a geometry: a cost matrix C
    (n, m), or coordinates x (n, d) and y (m, d) with the name of a cost. Or each has its own cost: C
    (count, n, m), which is written in float32 and may be an array on disk (`np.load(..., mmap_mode="r")`), or
    `parameters` (count, p) with a function `cost` that maps one row, an array of numpy, to a matrix (n, m). The
    function is found again by its name, so it is defined in a module; it is tried on twenty rows. An entry +inf
    forbids a pair.

    `eps` is a number or the range (lowest, highest) to train for, in the units of the cost. Everything is checked
    as by `Problem` before it is written; ValueError says what is wrong.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    weights = {name: as_array(name, rows).astype(np.float64, copy=False) for name, rows in (("a", a), ("b", b))}
    count, shape = len(weights["a"]), weights["a"].shape
    if len(shape) != 2 or count < _PART:
        raise ValueError(f"a must have the shape (count, n) with count >= {_PART}, got {shape}")
    spaces = {"C": C, "x": x, "y": y, "parameters": parameters}
    given = {name: as_array(name, rows) for name, rows in spaces.items() if rows is not None}
    costs = _costs(given, cost, (count, shape[1], weights["b"].shape[-1]))
    low, high = (eps, eps) if isinstance(eps, int | float) else eps
    for bound in (low, high):
        Problem(weights["a"], weights["b"], costs.example, float(bound))
    if low > high:
        raise ValueError(f"eps must be a number or (lowest, highest), got {eps}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder, {name: (rows, np.float32) for name, rows in weights.items()} | costs.columns)
    if costs.shared:
        np.savez(folder / "geometry.npz", allow_pickle=False, **costs.shared)
    card = {"cost": costs.name, "eps": [float(low), float(high)], "count": count}
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return folder


class _Costs(NamedTuple):
    """What is written of the costs of problems."""

    example: Geometry
    """A space of the problems' sizes."""
    name: str
    """The name of the cost, or of the function that computes it."""
    shared: dict[str, np.ndarray]
    """The arrays of the space that all problems share."""
    columns: dict[str, tuple[np.ndarray, type]]
    """What each problem has for itself, and the precision in which it is written."""


def _costs(given: dict[str, np.ndarray], cost: Any, sizes: tuple[int, int, int]) -> _Costs:
    """Return the costs of problems of sizes (count, n, m), checked."""
    if given.keys() == {"parameters"}:
        return _by_function(given["parameters"], cost, sizes)
    if callable(cost):
        raise ValueError("a cost that is a function needs `parameters` (count, p), and neither C nor x and y")
    if given.keys() not in ({"C"}, {"x", "y"}):
        kinds = "C, or x and y, or parameters and a function"
        raise ValueError(f"the geometry is {kinds}; got {sorted(given) or 'none of them'}")
    if "C" in given and given["C"].ndim == 3:
        return _by_matrices(given["C"], sizes)
    if "C" in given and given["C"].ndim != 2:
        wanted = f"{sizes[1:]}, one matrix for all problems, or {sizes}, one for each"
        raise ValueError(f"C must have the shape {wanted}, got {given['C'].shape}")
    shared = {name: rows.astype(np.float64) for name, rows in given.items()}
    return _Costs(_geometry(shared, cost), cost, shared, {})


def _by_matrices(C: np.ndarray, sizes: tuple[int, int, int]) -> _Costs:
    if C.shape != sizes:
        raise ValueError(
            f"C must have the shape (count, n, m) = {sizes}, as a and b have, or {sizes[1:]}, one matrix for all; "
            f"got {C.shape}"
        )
    most = np.finfo(np.float32).max
    for k, matrix in enumerate(C):
        require_matrix(f"C[{k}]", torch.from_numpy(np.array(matrix)), sizes[1:])
        if matrix.dtype != np.float32 and ((np.abs(matrix) > most) & np.isfinite(matrix)).any():
            raise ValueError(f"C[{k}] must fit into float32, got {np.abs(matrix[np.isfinite(matrix)]).max():.3g}")
    return _Costs(Dense(np.array(C[0])), "", {}, {"C": (C, np.float32)})


def _by_function(parameters: np.ndarray, cost: Any, sizes: tuple[int, int, int]) -> _Costs:
    count, *shape = sizes
    if parameters.ndim != 2 or len(parameters) != count:
        raise ValueError(
            f"parameters must have the shape (count, p), one row for each of the {count} rows of a, got "
            f"{parameters.shape}"
        )
    if not callable(cost):
        raise ValueError(f"parameters need a function `cost` that maps one row to a matrix (n, m), got {cost!r}")
    if not np.isfinite(parameters).all():
        row = int(np.argwhere(~np.isfinite(parameters))[0, 0])
        raise ValueError(f"parameters must be finite, got {parameters[row]} in row {row}")
    rows = parameters.astype(np.float64)
    tried = [matrix_at(cost, rows[k], (shape[0], shape[1])) for k in np.linspace(0, count - 1, _PART).astype(int)]
    return _Costs(Dense(tried[0]), function_name(cost), {}, {"parameters": (rows, np.float64)})


def _write_rows(folder: Path, columns: dict[str, tuple[np.ndarray, type]]) -> None:
    """Write arrays as columns of a data set, in parts that fit into memory."""
    import pyarrow as pa  # noqa: PLC0415, slow to import and needed only here
    from datasets import Dataset  # noqa: PLC0415, the same

    kinds = {np.float32: pa.float32(), np.float64: pa.float64()}
    sizes = {name: rows[0].size for name, (rows, _) in columns.items()}
    schema = pa.schema([(name, pa.list_(kinds[kind], sizes[name])) for name, (_, kind) in columns.items()])
    step = max(1, _BLOCK // max(sizes.values()))
    count = len(columns["a"][0])
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as parts:
        path = Path(parts) / "rows.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for start in range(0, count, step):
                arrays = []
                for name, (rows, kind) in columns.items():
                    flat = np.ascontiguousarray(rows[start : start + step], kind).reshape(-1)
                    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), sizes[name]))
                writer.write_batch(pa.record_batch(arrays, schema=schema))
        with _without_progress_bars():
            Dataset.from_file(str(path)).save_to_disk(folder / "problems")


@contextmanager
def _without_progress_bars() -> Generator[None]:
    """Have `datasets` draw no bars while the block runs: what they are for takes less than a second."""
    import datasets  # noqa: PLC0415, slow to import and needed only here

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@final
@dataclass(frozen=True)
class ProblemFolder(Source):
    """Problems of a folder that `write_problems` made; eps (0, 0) means the folder's own.

    A model learns more from few rows where some of them exchange their targets. Problems with costs of their own
    are never exchanged, and their set has no geometry.
    """

    path: str = ""
    """The folder that `write_problems` made."""
    batch: int = 128
    """Problems in a step of training."""
    eps: EpsRange = (0.0, 0.0)
    """The lowest and the highest temperature; [0, 0] for those that the folder was written with."""
    exchanged: float = 0.5
    """The share of the training problems with the target of another row; 0 where rows must stay together.

    Rows with costs of their own stay together in any case.
    """

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        if tuple(self.eps) != (0.0, 0.0):
            require_eps(self.eps)
        if not 0 <= self.exchanged <= 1:
            raise ValueError(f"exchanged must be a share between 0 and 1, got {self.exchanged!r}")

    def split(self, name: Split, data_dir: Path | None = None) -> "StoredProblems | StoredCosts":
        from datasets import load_from_disk  # noqa: PLC0415, slow to import and needed only here

        folder = Path(self.path)
        if not self.path or not (folder / "card.json").exists():
            raise FileNotFoundError(
                f"no problems in {self.path!r}: write them with metaot.data.write_problems, then name the folder "
                "with --set data.path=FOLDER"
            )
        card = json.loads((folder / "card.json").read_text())
        rows = load_from_disk(folder / "problems").with_format("numpy")
        place = torch.arange(len(rows)) % _PART
        kept = {"train": place < _PART - 2, "validation": place == _PART - 2, "test": place == _PART - 1}[name]
        a, b = (torch.as_tensor(rows[column][:])[kept].double() for column in ("a", "b"))
        eps = self.eps if self.eps[0] > 0 else tuple(card["eps"])
        a, b = (weights / weights.sum(-1, keepdim=True) for weights in (a, b))
        shape = (a.shape[1], b.shape[1])
        if "C" in rows.column_names:
            matrices = stored_matrices(rows.select_columns("C"), kept.nonzero()[:, 0], shape)
            return StoredCosts(self.batch, eps, a, b, matrices)
        if "parameters" in rows.column_names:
            doubles = rows.with_format("numpy", dtype=np.float64)  # its own choice is float32
            parameters = np.asarray(doubles["parameters"][:])[kept.numpy()]
            matrices = computed_matrices(named_function(card["cost"]), parameters, shape)
            return StoredCosts(self.batch, eps, a, b, matrices)
        geometry = _geometry(read_archive(folder / "geometry.npz"), card["cost"])
        return StoredProblems(self.batch, eps, a, b, geometry, self.exchanged if name == "train" else 0.0)


@final
@dataclass(frozen=True)
class StoredProblems(ProblemSet):
    """Given pairs (a, b), drawn at random with replacement; a share has b of another pair."""

    a: Float[Tensor, "count n"]
    b: Float[Tensor, "count m"]
    space: Geometry
    exchanged: float = 0.0

    @property
    def geometry(self) -> Geometry:
        return self.space

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        index = torch.randint(len(self.a), (self.batch,), generator=generator)
        other = torch.randint(len(self.a), (self.batch,), generator=generator)
        apart = torch.rand(self.batch, generator=generator) < self.exchanged
        return self.a[index], self.b[torch.where(apart, other, index)]


def _geometry(arrays: dict[str, np.ndarray], cost: str) -> Geometry:
    return Dense(arrays["C"]) if "C" in arrays else Points(arrays["x"], arrays["y"], cost)
