"""Distance matrices: the divergences between all pairs of many measures, in batches of pairs."""

from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from metaot import core
from metaot.arrays import ArrayLike, as_count, as_positive, described, is_free, require_limits, wrong
from metaot.core.method import SINKHORN_FIRST
from metaot.geometry import Geometry, Points
from metaot.geometry.base import replaced
from metaot.geometry.checks import first_place, require_weights, tensor
from metaot.losses.divergence_solution import self_value
from metaot.losses.landmarks import Landmarks
from metaot.losses.saved import SavedValues
from metaot.potentials import DualPotentials
from metaot.problem import Problem, as_vectors
from metaot.solvers import Symmetric, solve
from metaot.solvers.start import Start, opened, warm_start

_PLACES = "a row of whole numbers"
_MEASURES = "weights on one geometry (a tensor, an array or a list), N n"

_NUMBERS = 2**20
"""Weights of a batch of pairs, on one side."""


def pairwise(
    measures: ArrayLike,
    geometry: Geometry,
    eps: float,
    *,
    init: Start | None = None,
    landmarks: int | None = None,
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
    second order in that. An instance that does not converge in `max_steps` has the dual value where it stopped.

    `init` is a model, or the name of one, to start from. Without one, pairs start from what the rows of a few
    measures taught (`metaot.losses.landmarks`); `landmarks` is how many rows at most, None chooses, and with 0
    all pairs start from zeros.

    With `file`, a name that ends with .npz, what is done is saved several times a minute and when the run is
    interrupted, and a call with the same measures and settings goes on from there. `progress` shows a bar; None:
    where somebody may read it. Raises ValueError for measures that are not weights, and for a file of other
    measures or settings.
    """
    pairs = PairDivergences(measures, geometry, eps, init=init, debiased=debiased, tol=tol, max_steps=max_steps)
    most = None if landmarks is None else as_count("landmarks", landmarks)
    saved = SavedValues.of(file, pairs._own, pairs._settings)
    return _matrix(pairs, most, saved, progress)


@torch.no_grad()
def _matrix(pairs: "PairDivergences", most: int | None, saved: SavedValues, progress: bool | None) -> Tensor:
    """Solve all pairs that are not saved, row by row, in a random order: the first ones are like the others."""
    own = pairs._own
    count, device = len(own.a), own.a.device
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(device)
    rows, columns = torch.triu_indices(count, count, 1, device=device)
    found, done = saved.load(len(rows), device)
    first = next(row for row in range(count + 1) if _pairs_before(row, count) >= done)
    left = order[first:]
    learned = Landmarks(own.a[left], pairs._near[left], 0 if pairs._init is not None else most)
    disable = None if progress is None else not progress
    with tqdm(total=len(found), initial=done, unit="pair", disable=disable) as bar:
        try:
            while done < len(found):
                row, last = int(rows[done]), min(len(found), done + pairs._batch)
                is_landmark = 0 <= row - first < learned.count
                if is_landmark:  # pairs of one row
                    last = min(last, _pairs_before(row + 1, count))
                i, j = rows[done:last], columns[done:last]
                f = learned.starts(i - first, j - first)
                found[done:last], *potentials = pairs._entries(order[i], order[j], f, keep=is_landmark)
                if is_landmark:
                    learned.note(row - first, int(j[0]) - first, *potentials)
                bar.update(last - done)
                done = last
                saved.keep(found, done)
        finally:
            saved.save(found, done)
    matrix = found.new_zeros(count, count)
    matrix[order[rows], order[columns]] = matrix[order[columns], order[rows]] = found
    if not pairs._debiased:
        matrix.diagonal().copy_(pairs._self_values)
    return matrix.to(own.a)


def _pairs_before(row: int, count: int) -> int:
    """Return how many of the pairs i < j of `count` measures are in the rows before this one."""
    return row * count - row * (row + 1) // 2


@final
class PairDivergences:
    """Divergences of some of the pairs of N measures: what `pairwise` makes its matrix of.

    The settings are those of `pairwise`. Each measure's problem with itself is solved once. An object goes to
    other processes, which share the pairs of a large matrix among them: see `examples/serving/ray_batch.py`.
    """

    @torch.no_grad()
    def __init__(
        self,
        measures: ArrayLike,
        geometry: Geometry,
        eps: float,
        *,
        init: Start | None = None,
        debiased: bool = True,
        tol: float = 1e-3,
        max_steps: int = 10_000,
    ) -> None:
        tol, max_steps = require_limits(tol, max_steps)
        self._limits: dict[str, Any] = {"tol": tol, "max_steps": max_steps}
        self._own, self._init, self._debiased = _own_problems(measures, geometry, eps), opened(init), debiased
        itself = solve(self._own, solver=Symmetric(), **self._limits)
        self._self_values, self._near = self_value(itself), itself.potentials.f
        self._batch = max(1, _NUMBERS // self._own.a.shape[-1])

    @property
    def _settings(self) -> dict[str, Any]:
        return {"debiased": self._debiased, **self._limits}

    @torch.no_grad()
    def __call__(self, source: ArrayLike, target: ArrayLike) -> Float[Tensor, "pairs"]:
        """Return the entries for pairs of measures, by their places 0 ... N - 1."""
        i, j = (_places(name, given, self._own.a) for name, given in (("source", source), ("target", target)))
        if len(i) != len(j):
            raise ValueError(f"source and target must be equally many, got {len(i)} and {len(j)}")
        parts = zip(i.split(self._batch), j.split(self._batch), strict=True)
        found = [self._entries(*part, None, keep=False)[0] for part in parts if len(part[0])]
        return torch.cat([self._self_values[:0], *found]).to(self._own.a)

    def _entries(
        self, i: Int[Tensor, "k"], j: Int[Tensor, "k"], start: Tensor | None, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the entries of one batch of pairs, from f where there is no model; and potentials, if kept."""
        if self._init is not None:
            start = warm_start(self._problem(i, j), self._init)
        value, f, g = self._solved(i, j, start, keep)
        if self._debiased:
            halves = (self._self_values[i] + self._self_values[j]) / 2
            below = (value < halves).nonzero()[:, 0]
            if len(below):  # the measures are nearly equal: from their own potentials the value is never below
                again = self._solved(i[below], j[below], self._near[i[below]], keep=False)[0]
                value[below] = torch.maximum(value[below], again)
            value = value - halves
        return value, f, g

    def _solved(
        self, i: Int[Tensor, "k"], j: Int[Tensor, "k"], start: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return dual values; compiled code makes potentials only if kept, and leaves hard pairs to `solve`."""
        if not self._own.suits_core:
            return self._by_solve(i, j, start)
        limits = core.Limits(self._limits["tol"], min(self._limits["max_steps"], SINKHORN_FIRST))
        f, threads = None if start is None else start.detach().numpy(), torch.get_num_threads()
        found = self._core(torch.stack([i, j], 1).numpy(), f, limits, potentials=keep, threads=threads)
        made = (found.value, *(found.value[:0] if part is None else part for part in (found.f, found.g)))
        value, f, g = map(torch.from_numpy, made)
        hard = torch.from_numpy(~(found.error <= limits.tol)).nonzero()[:, 0]
        if len(hard):
            for whole, part in zip((value, f, g), self._by_solve(i[hard], j[hard], None), strict=True):
                if len(whole):
                    whole[hard] = part
        return value, f, g

    @cached_property
    def _core(self) -> core.PairSolver:
        costs, weights, _, eps = self._own.arrays()
        return core.PairSolver(costs, weights, float(eps[0]))

    def _by_solve(
        self, i: Int[Tensor, "k"], j: Int[Tensor, "k"], start: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        problem = self._problem(i, j)
        init = None if start is None else DualPotentials(start, torch.zeros_like(problem.b))
        potentials = solve(problem, init=init, **self._limits).potentials
        f, g = potentials.f, potentials.g
        return (f * problem.a).sum(-1) + (g * problem.b).sum(-1), f, g

    def _problem(self, i: Int[Tensor, "k"], j: Int[Tensor, "k"]) -> Problem:
        own, space = self._own, self._own.geometry
        if isinstance(space, Points) and space.batch_shape:
            space = replaced(space, x=space.x[i], y=space.x[j])
        return Problem.trusted(own.a[i], own.a[j], space, own.eps)


def _places(name: str, given: ArrayLike, weights: Float[Tensor, "N n"]) -> Int[Tensor, "pairs"]:
    """Return places of measures; ValueError for what are none."""
    places = tensor(name, given, taken=_PLACES).to(weights.device)
    if places.ndim != 1 or not (places.numel() == 0 or (is_free(given) and bool((places % 1 == 0).all()))):
        raise ValueError(f"{name} must be {_PLACES}, got {described(given)}")
    bad = (places < 0) | (places >= len(weights))
    if bool(bad.any()):
        raise ValueError(f"{name} must be of 0 to {len(weights) - 1}, got {name}{first_place(bad, places)}")
    return places.long()


def _own_problems(measures: ArrayLike, geometry: Geometry, eps: float) -> Problem:
    """Return the problem of each measure with itself; errors for what has no matrix."""
    if not isinstance(geometry, Geometry):
        raise wrong("geometry", "a Geometry that all measures share, or Points(x) with a cloud for each", geometry)
    temperature = as_positive("eps", eps)
    sides = geometry.of_each_side
    if geometry.shape[0] != geometry.shape[1] or sides is None:
        raise ValueError(f"pairwise needs one set of atoms, and costs among them, got {geometry}")
    if isinstance(geometry, Points) and not torch.equal(geometry.x, geometry.y):
        raise ValueError("pairwise needs the points of both sides to be the same: take Points(x)")
    shown, n = tensor("measures", measures, taken=_MEASURES), geometry.shape[0]
    rows = as_vectors(shown, n, geometry.sizes)
    if rows.ndim != 2 or rows.shape[-1] != n:
        raise ValueError(f"measures must have the shape (N, {n}) on {geometry}, got {tuple(shown.shape)}")
    require_weights("measures", rows, shown)
    return Problem(rows, rows, sides[0], temperature).normalised()
