"""Snapshots of a population at several times: your own file, or an embedded population that splits in two."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import SnapshotSet, Source, Split
from metaot.data.drawings import gaussian
from metaot.measures import loaded
from metaot.settings import require_positive, require_share, require_whole

_PART = 5
"""Of so many points one is held out for validation, and one for test."""
_POINTS, _TIMES, _SEED = 1500, 6, 0


@final
@dataclass(frozen=True)
class Snapshots(Source):
    """Snapshots in a file, or of a population that splits in two; each split has points of its own."""

    path: str = ""
    """A file of numpy: .npy of times n d, or .npz with an array n d for each time; empty for embedded ones."""
    tau: float = 0.1
    """The time from one snapshot to the next."""
    eps: float = 0.05
    """The temperature of the transport between snapshots, in units of |x - y|^2; 0 for exact pairs."""
    new: float = 0.5
    """The share of the gradient at the new positions in a step: 1 for JKO, 0 for descent, 0.5 for a flow."""
    batch: int = 512
    """Points in a step of training."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_positive(tau=self.tau)
        require_share(new=self.new)
        if self.eps != 0:
            require_positive(eps=self.eps)

    def split(self, name: Split, data_dir: Path | None = None) -> SnapshotSet:
        arrays = splitting(self.tau) if not self.path else _read(Path(self.path))
        kept = {"train": range(_PART - 2), "validation": (_PART - 2,), "test": (_PART - 1,)}[name]
        clouds = tuple(cloud[np.isin(np.arange(len(cloud)) % _PART, list(kept))] for cloud in arrays)
        if min(map(len, arrays)) < _PART:
            raise ValueError(
                f"{self.path}: each snapshot needs at least {_PART} points, got {[*map(len, arrays)]}"
            )
        return SnapshotSet(self.batch, clouds, self.tau, self.eps, self.new)


def splitting(tau: float, count: int = _POINTS, times: int = _TIMES) -> list[Float[Tensor, "n 2"]]:
    """Return other particles at each time of a population that moves up and splits in two, as cells that decide.

    They flow along minus the gradient of V = (x^2 - 1)^2/2 - x/20 - y, with noise at the beginning only.
    """
    found = []
    for time in range(times):
        generator = torch.Generator().manual_seed(_SEED + time)
        x = 0.3 * gaussian((count, 2), generator).double()
        for _ in range(20 * time):
            x = x - tau / 20 * splitting_gradient(x)
        found.append(x)
    return found


def splitting_gradient(x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Return the gradient of the potential of `splitting`."""
    return torch.stack([2 * x[:, 0] * (x[:, 0].square() - 1) - 0.05, -torch.ones_like(x[:, 1])], 1)


def _read(path: Path) -> list[Tensor]:
    """Return the snapshots of a file; ValueError, with its name, for what are none."""
    found = loaded(path)
    arrays = list(found.values()) if isinstance(found, dict) else list(np.atleast_1d(found))
    for k, each in enumerate(arrays):
        if each.dtype.kind not in "fiu" or each.ndim != 2 or not np.isfinite(each).all():
            raise ValueError(
                f"{path}: snapshot {k} must be finite numbers of the shape (points, d), got {each.dtype} of "
                f"{each.shape}"
            )
    if len(arrays) < 2 or len({each.shape[1] for each in arrays}) > 1:
        shapes = [each.shape for each in arrays]
        raise ValueError(f"{path} must hold two or more snapshots of points of one dimension, got {shapes}")
    return [torch.from_numpy(each.astype(np.float64)) for each in arrays]
