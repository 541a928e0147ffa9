"""The values of a distance matrix that are done, in a file."""

import time
import zipfile
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import wrong
from metaot.digest import of_arrays, of_json
from metaot.folders import write_atomically
from metaot.geometry.costs import name_of_cost
from metaot.problem import Problem

_SECONDS = 20.0
"""Time between two saves."""


@final
class SavedValues:
    """A file with the values that are done, and the digest of what they are of."""

    def __init__(self, path: Path | None, digest: str) -> None:
        self.path, self.digest, self.saved, self.done = path, digest, time.monotonic(), 0

    @classmethod
    def of(cls, file: str | Path | None, own: Problem, settings: dict[str, Any]) -> "SavedValues":
        """Open the file of these measures and settings; without a name nothing is saved."""
        if file is None:
            return cls(None, "")
        if not isinstance(file, str | Path):
            raise wrong("file", "a name that ends with .npz", file)
        path = Path(file)
        if path.suffix != ".npz":
            raise ValueError(f"file must have a name that ends with .npz, got {str(file)!r}")
        tensors = {"a": own.a, **own.geometry.tensors()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        described = {"eps": own.eps, "cost": name_of_cost(own.geometry.cost_name), **settings}
        return cls(path, of_json([of_arrays(arrays), described]))

    def load(self, count: int, device: torch.device) -> tuple[Float[Tensor, "pairs"], int]:
        """Return room for all values, with those that were done, and their number."""
        found = torch.zeros(count, dtype=torch.float64, device=device)
        if self.path is None or not self.path.exists():
            return found, 0
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                digest, values = str(saved["digest"]), saved["values"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self.path} is no file of pairwise ({error}): delete it, or name another"
            ) from error
        if digest != self.digest or len(values) > count:
            raise ValueError(f"{self.path} has other measures or settings: delete it, or name another file")
        found[: len(values)] = torch.from_numpy(values)
        self.done = len(values)
        return found, len(values)

    def keep(self, found: Float[Tensor, "pairs"], done: int) -> None:
        """Save the values that are done, unless that was just now."""
        if done == len(found) or time.monotonic() - self.saved >= _SECONDS:
            self.save(found, done)

    def save(self, found: Float[Tensor, "pairs"], done: int) -> None:
        """Save the values that are done."""
        if self.path is None or done == self.done:
            return
        self.saved, self.done = time.monotonic(), done
        values = found[:done].cpu().numpy()

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, digest=np.array(self.digest), values=values)

        write_atomically(self.path, write)
