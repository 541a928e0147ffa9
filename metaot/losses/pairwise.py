"""Distance matrices: the divergences between all pairs of many measures, in batches of pairs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from metaot.arrays import ArrayLike, require_limits, wrong
from metaot.digest import of_arrays, of_json
from metaot.folders import write_atomically
from metaot.geometry import Geometry, Points
from metaot.geometry.base import replaced
from metaot.geometry.costs import name_of_cost
from metaot.losses.divergence import self_value
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers import Symmetric, solve
from metaot.solvers.start import Start, opened

_NUMBERS = 2**20
"""Weights of a batch of pairs that are made at once, on one side."""

_SECONDS = 20.0
"""Time between two saves."""


def pairwise(
    measures: ArrayLike,
    geometry: Geometry,
    eps: float,
    *,
    init: Start | None = None,
    debiased: bool = True,
    tol: float = 1e-3,
    max_steps: int = 10_000,
    file: str | Path | None = None,
    progress: bool | None = None,
) -> Float[Tensor, "N N"]:
    """Return the Sinkhorn divergences between N measures: a symmetric matrix with zeros on its diagonal.

    `measures` are weights, N n, on the atoms of `geometry`, which they share; or, with a batch of N clouds
    `Points(x)`, x of N n d, on points of their own: clouds of fewer points are padded with weights of zero. With
    `debiased` false the entries are the values of entropic transport, on the diagonal too.

    Each of the N (N - 1)/2 problems is solved to an L1 marginal error of at most `tol`; the value's error is of
    second order in that. `init` is a model, or the name of one, to start from. An instance that does not converge
    in `max_steps` has the dual value where it stopped.

    With `file`, a name that ends with .npz, what is done is saved several times a minute, and a call with the same
    measures and settings goes on from there. `progress` shows a bar; None: where somebody may read it. Raises
    ValueError for measures that are not weights, and for a file of other measures or settings.
    """
    tol, max_steps = require_limits(tol, max_steps)
    if not isinstance(geometry, Geometry):
        raise wrong("geometry", "a Geometry that all measures share, or Points(x) with a cloud for each", geometry)
    if isinstance(eps, bool) or not isinstance(eps, float | int):
        raise wrong("eps", "a number", eps)
    work = _Work.of(measures, geometry, float(eps), tol, max_steps)
    return work.matrix(opened(init), debiased, _Store.of(file, work, debiased), progress)


@final
@dataclass(frozen=True)
class _Work:
    """Measures, and how to solve the problems between them."""

    own: Problem
    """Each measure and itself."""
    limits: dict[str, Any]

    @classmethod
    def of(cls, measures: ArrayLike, geometry: Geometry, eps: float, tol: float, max_steps: int) -> "_Work":
        """Check the measures."""
        sides = geometry.of_each_side
        if geometry.shape[0] != geometry.shape[1] or sides is None:
            raise ValueError(f"pairwise needs one set of atoms, and costs among them, got {geometry}")
        if isinstance(geometry, Points) and not torch.equal(geometry.x, geometry.y):
            raise ValueError("pairwise needs the points of both sides to be the same: take Points(x)")
        own = Problem(measures, measures, sides[0], eps).normalised()
        if len(own.batch_shape) != 1:
            raise ValueError(f"measures must have the shape (N, {own.a.shape[-1]}), got {tuple(own.a.shape)}")
        return cls(own, {"tol": tol, "max_steps": max_steps})

    @torch.no_grad()
    def matrix(self, init: Any, debiased: bool, store: "_Store", progress: bool | None) -> Float[Tensor, "N N"]:
        """Solve each measure to itself, then all pairs that are not in the store."""
        count = len(self.own.a)
        itself = solve(self.own, solver=Symmetric(), **self.limits)
        values, near = self_value(itself), itself.potentials.f
        found, first = store.load(count * (count - 1) // 2)
        disable = None if progress is None else not progress
        with tqdm(total=len(found), initial=first, unit="pair", disable=disable) as bar:
            for done, (i, j) in self._batches(first, len(found)):
                value = self._values(i, j, init)
                if debiased:
                    halves = (values[i] + values[j]) / 2
                    below = (value < halves).nonzero()[:, 0]
                    if len(below):  # the measures are nearly equal: from there the value is never below
                        again = self._values(i[below], j[below], DualPotentials(near[i[below]], near[j[below]]))
                        value[below] = torch.maximum(value[below], again)
                    value = value - halves
                found[done] = value
                bar.update(len(i))
                store.keep(found, done.stop)
        matrix = found.new_zeros(count, count)
        rows, columns = torch.triu_indices(count, count, 1, device=found.device)
        matrix[rows, columns] = matrix[columns, rows] = found
        if not debiased:
            matrix.diagonal().copy_(values)
        return matrix.to(self.own.a)

    def _batches(
        self, first: int, last: int
    ) -> "Iterator[tuple[slice, tuple[Int[Tensor, 'k'], Int[Tensor, 'k']]]]":
        """Yield the pairs i < j that are left, row by row, as many at once as fit."""
        count, n = self.own.a.shape
        rows, columns = torch.triu_indices(count, count, 1, device=self.own.a.device)
        size = max(1, _NUMBERS // n)
        for start in range(first, last, size):
            part = slice(start, min(last, start + size))
            yield part, (rows[part], columns[part])

    def _values(self, i: Int[Tensor, "k"], j: Int[Tensor, "k"], init: Any) -> Float[Tensor, "k"]:
        own, space = self.own, self.own.geometry
        if isinstance(space, Points) and space.batch_shape:
            space = replaced(space, x=space.x[i], y=space.x[j])
        problem = Problem.trusted(own.a[i], own.a[j], space, own.eps)
        potentials = solve(problem, init=init, **self.limits).potentials
        return (potentials.f * problem.a).sum(-1) + (potentials.g * problem.b).sum(-1)


class _Store:
    """A file with the values that are done, and the digest of what they are of."""

    def __init__(self, path: Path | None, digest: str) -> None:
        self.path, self.digest, self.saved = path, digest, time.monotonic()

    @classmethod
    def of(cls, file: str | Path | None, work: _Work, debiased: bool) -> "_Store":
        if file is None:
            return cls(None, "")
        path = Path(file)
        if path.suffix != ".npz":
            raise ValueError(f"file must have a name that ends with .npz, got {str(file)!r}")
        own = work.own
        tensors = {"a": own.a, **own.geometry.tensors()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        settings = {
            "eps": own.eps,
            "debiased": debiased,
            "cost": name_of_cost(own.geometry.cost_name),
            **work.limits,
        }
        return cls(path, of_json([of_arrays(arrays), settings]))

    def load(self, count: int) -> tuple[Float[Tensor, "pairs"], int]:
        """Return room for all values, with those that were done, and their number."""
        found = torch.zeros(count, dtype=torch.float64)
        if self.path is None or not self.path.exists():
            return found, 0
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                digest, values = str(saved["digest"]), saved["values"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.path} is no file of pairwise ({error}): delete it, or name another"
            ) from error
        if digest != self.digest or len(values) > count:
            raise ValueError(f"{self.path} has other measures or settings: delete it, or name another file")
        found[: len(values)] = torch.from_numpy(values)
        return found, len(values)

    def keep(self, found: Float[Tensor, "pairs"], done: int) -> None:
        """Save the values that are done, unless that was just now."""
        if self.path is None or (done < len(found) and time.monotonic() - self.saved < _SECONDS):
            return
        self.saved = time.monotonic()
        values = found[:done].cpu().numpy()

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, digest=np.array(self.digest), values=values)

        write_atomically(self.path, write)
