"""The user's own problems: a folder that `write_problems` made from arrays, read back through `datasets`.

folder/problems      a Hugging Face data set with the columns a and b (fixed-length float32)
folder/geometry.npz  the geometry of all problems: C, or x and y
folder/card.json     the cost's name and eps
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
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
from metaot.measures import read_archive
from metaot.problem import Problem
from metaot.settings import require_eps, require_whole

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
    import pyarrow as pa  # noqa: PLC0415, slow to import and needed only here
    from datasets import Dataset  # noqa: PLC0415, the same

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    given = {"a": a, "b": b, "C": C, "x": x, "y": y}
    doubles = {name: np.ascontiguousarray(rows, np.float64) for name, rows in given.items() if rows is not None}
    arrays = {name: torch.from_numpy(rows) for name, rows in doubles.items()}
    weights = {name: arrays.pop(name) for name in ("a", "b")}
    count, shape = len(weights["a"]), tuple(weights["a"].shape)
    if len(shape) != 2 or count < _PART:
        raise ValueError(f"a must have the shape (count, n) with count >= {_PART}, got {shape}")
    if arrays.keys() not in ({"C"}, {"x", "y"}):
        raise ValueError(f"the geometry is C, or x and y; got {sorted(arrays) or 'none of them'}")
    low, high = (eps, eps) if isinstance(eps, int | float) else eps
    for bound in (low, high):
        Problem(weights["a"], weights["b"], _geometry(arrays, cost), float(bound))
    if low > high:
        raise ValueError(f"eps must be a number or (lowest, highest), got {eps}")
    columns = {}
    for name, rows in weights.items():
        flat = pa.array(rows.numpy().astype(np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    folder.mkdir(parents=True, exist_ok=True)
    with _without_progress_bars():
        Dataset(pa.table(columns)).save_to_disk(folder / "problems")
    np.savez(folder / "geometry.npz", allow_pickle=False, **{name: rows.numpy() for name, rows in arrays.items()})
    card = {"cost": cost, "eps": [float(low), float(high)], "count": count}
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return folder


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

    A model learns more from few rows where some of them exchange their targets.
    """

    path: str = ""
    """The folder that `write_problems` made."""
    batch: int = 128
    """Problems in a step of training."""
    eps: EpsRange = (0.0, 0.0)
    """The lowest and the highest temperature; [0, 0] for those that the folder was written with."""
    exchanged: float = 0.5
    """The share of the training problems with the target of another row; 0 where rows must stay together."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        if tuple(self.eps) != (0.0, 0.0):
            require_eps(self.eps)
        if not 0 <= self.exchanged <= 1:
            raise ValueError(f"exchanged must be a share between 0 and 1, got {self.exchanged!r}")

    def split(self, name: Split, data_dir: Path | None = None) -> "StoredProblems":
        from datasets import load_from_disk  # noqa: PLC0415, slow to import and needed only here

        folder = Path(self.path)
        if not self.path or not (folder / "card.json").exists():
            raise FileNotFoundError(
                f"no problems in {self.path!r}: write them with metaot.data.write_problems, then name the folder "
                "with --set data.path=FOLDER"
            )
        card = json.loads((folder / "card.json").read_text())
        arrays = read_archive(folder / "geometry.npz")
        geometry = _geometry({name: torch.from_numpy(values) for name, values in arrays.items()}, card["cost"])
        rows = load_from_disk(folder / "problems").with_format("numpy")
        place = torch.arange(len(rows)) % _PART
        kept = {"train": place < _PART - 2, "validation": place == _PART - 2, "test": place == _PART - 1}[name]
        a, b = (torch.as_tensor(rows[column][:])[kept].double() for column in ("a", "b"))
        eps = self.eps if self.eps[0] > 0 else tuple(card["eps"])
        a, b = (weights / weights.sum(-1, keepdim=True) for weights in (a, b))
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


def _geometry(arrays: dict[str, Tensor], cost: str) -> Geometry:
    return Dense(arrays["C"]) if "C" in arrays else Points(arrays["x"], arrays["y"], cost)
