"""The user's own problems: a folder that `write_problems` made from arrays, read back through `datasets`.

folder/problems      a Hugging Face data set with the columns a and b (fixed-length float32)
folder/geometry.npz  the geometry of all problems: C, or x and y
folder/card.json     the cost's name and eps
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from metaot.data.base import EpsRange, ProblemSet, Source, Split
from metaot.geometry import Dense, Geometry, Points
from metaot.problem import Problem

_PART = 20
"""Of every twenty problems, one is held out for validation and one for test, the last two."""


def write_problems(
    folder: str | Path,
    a: ArrayLike,
    b: ArrayLike,
    *,
    eps: float | tuple[float, float],
    C: ArrayLike | None = None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    cost: str = "sqeuclidean",
) -> Path:
    """Write problems on one geometry to a new folder, for the recipe `problems`.

    `a` (count, n) and `b` (count, m) are the weights, row by row; the geometry is a cost matrix C (n, m), or
    coordinates x (n, d) and y (m, d) with the name of a cost. `eps` is a number or the range (lowest,
    highest) to train for. Everything is checked as by `Problem` before it is written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    rows_a, rows_b = _double(a), _double(b)
    if rows_a.ndim != 2 or len(rows_a) < _PART:
        raise ValueError(f"a must have the shape (count, n) with count >= {_PART}, got {tuple(rows_a.shape)}")
    arrays = _geometry_arrays(C, x, y)
    low, high = (eps, eps) if isinstance(eps, int | float) else eps
    for bound in (low, high):
        Problem(rows_a, rows_b, _geometry(arrays, cost), float(bound))
    if low > high:
        raise ValueError(f"eps must be a number or (lowest, highest), got {eps}")
    folder.mkdir(parents=True, exist_ok=True)
    _dataset(rows_a, rows_b).save_to_disk(folder / "problems")
    np.savez(folder / "geometry.npz", allow_pickle=False, **arrays)
    card = {"cost": cost, "eps": [float(low), float(high)], "count": len(rows_a)}
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return folder


@final
@dataclass(frozen=True)
class ProblemFolder(Source):
    """Problems of a folder that `write_problems` made; eps (0, 0) means the folder's own."""

    path: str = ""
    batch: int = 128
    eps: EpsRange = (0.0, 0.0)

    def split(self, name: Split, data_dir: Path | None = None) -> "StoredProblems":
        from datasets import load_from_disk  # noqa: PLC0415, slow to import and needed only here

        folder = Path(self.path)
        if not self.path or not (folder / "card.json").exists():
            raise FileNotFoundError(
                f"no problems in {self.path!r}: write them with metaot.data.write_problems, then name the folder "
                "with --set data.path=FOLDER"
            )
        card = json.loads((folder / "card.json").read_text())
        with np.load(folder / "geometry.npz", allow_pickle=False) as arrays:
            geometry = _geometry(dict(arrays), card["cost"])
        rows = load_from_disk(folder / "problems").with_format("numpy")
        keep = _part(name, len(rows))
        a, b = (_normalised(torch.as_tensor(rows[column][:])[keep].double()) for column in ("a", "b"))
        eps = self.eps if self.eps[0] > 0 else tuple(card["eps"])
        return StoredProblems(self.batch, eps, a, b, geometry)


@final
@dataclass(frozen=True)
class StoredProblems(ProblemSet):
    """Given pairs (a, b), drawn at random with replacement."""

    a: Float[Tensor, "count n"]
    b: Float[Tensor, "count m"]
    space: Geometry

    @property
    def geometry(self) -> Geometry:
        return self.space

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        index = torch.randint(len(self.a), (self.batch,), generator=generator)
        return self.a[index], self.b[index]


def _double(values: ArrayLike) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values, dtype=np.float64))


def _normalised(weights: Tensor) -> Tensor:
    """Normalise float32 weights of a file in float64."""
    return weights / weights.sum(-1, keepdim=True)


def _geometry_arrays(C: ArrayLike | None, x: ArrayLike | None, y: ArrayLike | None) -> dict[str, np.ndarray]:
    given: Sequence[tuple[str, ArrayLike | None]] = (("C", C), ("x", x), ("y", y))
    arrays = {name: np.ascontiguousarray(value, dtype=np.float64) for name, value in given if value is not None}
    if arrays.keys() not in ({"C"}, {"x", "y"}):
        raise ValueError(f"the geometry is C, or x and y; got {sorted(arrays) or 'none of them'}")
    return arrays


def _geometry(arrays: dict[str, np.ndarray], cost: str) -> Geometry:
    if "C" in arrays:
        return Dense(torch.as_tensor(arrays["C"]))
    return Points(torch.as_tensor(arrays["x"]), torch.as_tensor(arrays["y"]), cost)


def _dataset(a: Tensor, b: Tensor):
    import pyarrow as pa  # noqa: PLC0415
    from datasets import Dataset  # noqa: PLC0415

    columns = {}
    for name, rows in (("a", a), ("b", b)):
        flat = pa.array(rows.numpy().astype(np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    return Dataset(pa.table(columns))


def _part(name: Split, count: int) -> Tensor:
    index = torch.arange(count) % _PART
    if name == "train":
        return index < _PART - 2
    return index == (_PART - 2 if name == "validation" else _PART - 1)
