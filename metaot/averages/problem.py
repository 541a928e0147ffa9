"""Barycenter problems: measures and their weights on one space, as they come in and as the solver takes them."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot import core
from metaot.arrays import ArrayLike, as_positive, wrong
from metaot.core.method import SMALLEST_WEIGHT
from metaot.geometry import Geometry
from metaot.geometry.checks import given, require_weights, together
from metaot.potentials import c_transform
from metaot.problem import Problem, as_vectors
from metaot.solvers.symmetric import asymmetry

_MEASURES = "on one grid (a tensor, an array or a list), *batch k n; free_barycenter takes clouds"
_WEIGHTS = "one for each measure (a tensor, an array or a list), *batch k"


@final
@dataclass(frozen=True)
class BarycenterProblem:
    """A batch of k measures each, all on one space, with the weights of their mean.

    Calculations are in float64, in units of eps.
    """

    measures: Float[Tensor, "batch k n"]
    weights: Float[Tensor, "batch k"]
    atoms: Int[Tensor, "batch k s"]
    """The atoms with mass of each measure, padded to the most of one with atoms without."""
    masses: Float[Tensor, "batch k s"]
    geometry: Geometry
    eps: float

    @classmethod
    def of(
        cls, measures: Float[Tensor, "sets k n"], weights: Float[Tensor, "batch k"], space: Geometry, eps: float
    ) -> "BarycenterProblem":
        """Find the atoms with mass; one set of measures may be that of all rows."""
        has_mass = measures >= SMALLEST_WEIGHT
        most = int(has_mass.sum(-1).amax()) if measures.numel() else 1
        atoms = has_mass.byte().argsort(dim=-1, descending=True, stable=True)[..., :most]
        parts = measures, atoms, measures.gather(-1, atoms)
        measures, atoms, masses = (part.expand(len(weights), -1, -1) for part in parts)
        return cls(measures, weights, atoms, masses, space, eps)

    def __getitem__(self, index: Tensor | slice) -> "BarycenterProblem":
        parts = {name: getattr(self, name)[index] for name in ("measures", "weights", "atoms", "masses")}
        return BarycenterProblem(**parts, geometry=self.geometry, eps=self.eps)

    @property
    def suits_core(self) -> bool:
        """Whether compiled code finds these barycenters."""
        problem = Problem.trusted(self.measures[:, 0], self.measures[:, 0], self.geometry, self.eps)
        return problem.has_axes and problem.suits_core and len(self.measures) > 0

    @cached_property
    def active(self) -> Bool[Tensor, "batch k"] | None:
        """The measures with a weight; None where all have one."""
        has_weight = self.weights > 0
        return None if bool(has_weight.all()) else has_weight

    def towards_barycenter(self, f: Float[Tensor, "batch k n"]) -> Float[Tensor, "batch k n"]:
        """Return for each measure the best potential on the barycenter; zeros for measures without weight."""
        return self._transformed(self.measures, self.measures, f)

    def towards_measures(
        self, measure: Float[Tensor, "batch n"], g: Float[Tensor, "batch k n"]
    ) -> Float[Tensor, "batch k n"]:
        """Return the best potential on each measure for g on the barycenter, of which this is the measure."""
        return self._transformed(measure[:, None].expand_as(self.measures), self.measures, g)

    def _transformed(self, source: Tensor, target: Tensor, f: Tensor) -> Tensor:
        if self.active is None:
            found = best_potential(source.flatten(0, 1), target.flatten(0, 1), f.flatten(0, 1), self)
            return found.reshape(f.shape)
        found = torch.zeros_like(f)
        found[self.active] = best_potential(source[self.active], target[self.active], f[self.active], self)
        return found


def best_potential(
    a: Float[Tensor, "flat n"], b: Float[Tensor, "flat n"], f: Float[Tensor, "flat n"], like: BarycenterProblem
) -> Float[Tensor, "flat n"]:
    r"""Return $-\log \sum_i a_i \exp(f_i - C_{ij} / \epsilon)$ by compiled code where it does that."""
    problem = Problem.trusted(a, b, like.geometry, like.eps)
    if problem.has_axes and problem.suits_core and len(a) > 0:
        costs, masses, targets, eps = problem.arrays()
        start, threads = (f * like.eps).numpy(), torch.get_num_threads()
        found = core.best_potential(costs, masses, targets, eps, start, threads=threads)
        return torch.from_numpy(found) / like.eps
    return c_transform(problem, f * like.eps) / like.eps


@final
@dataclass(frozen=True)
class Measures:
    """Measures and weights that were checked: *batch k n and *batch k with one batch, in one dtype."""

    measures: Float[Tensor, "*batch k n"]
    weights: Float[Tensor, "*batch k"]
    geometry: Geometry
    eps: float

    @classmethod
    def checked(cls, measures: ArrayLike, weights: ArrayLike, geometry: Geometry, eps: float) -> "Measures":
        """Read what came in; errors name the first thing that is wrong."""
        eps = _space(geometry, eps)
        parts = given("measures", measures, _MEASURES), given("weights", weights, _WEIGHTS)
        values, shares = _as_rows(parts[0].tensor, geometry.shape[0], geometry), parts[1].tensor
        if shares.ndim == 0 or shares.shape[-1] != values.shape[-2]:
            raise ValueError(
                f"weights must be one for each of the {values.shape[-2]} measures, got the shape "
                f"{tuple(shares.shape)}"
            )
        require_weights("measures", values, parts[0].tensor)
        require_weights("weights", shares)
        values, shares = together(parts[0]._replace(tensor=values), parts[1])
        try:
            batch = np.broadcast_shapes(values.shape[:-2], shares.shape[:-1])
        except ValueError as error:
            raise ValueError(
                f"measures of shape {tuple(values.shape)} and weights of {tuple(shares.shape)} differ in their "
                "batch"
            ) from error
        values, shares = values.expand(*batch, *values.shape[-2:]), shares.expand(*batch, shares.shape[-1])
        return cls(values, shares, geometry.to(values), eps)

    @property
    def shared(self) -> bool:
        """Whether all rows of weights are of the same measures."""
        sizes, strides = self.measures.shape[:-2], self.measures.stride()[:-2]
        return all(size == 1 or stride == 0 for size, stride in zip(sizes, strides, strict=True))

    def flat(self) -> BarycenterProblem:
        """Return the problems in float64 with one batch dimension and masses of one."""
        k, n = self.measures.shape[-2:]
        one = self.measures[(0,) * (self.measures.ndim - 2)] if self.shared and self.weights.numel() else None
        measures, weights = (self.measures if one is None else one).reshape(-1, k, n), self.weights.reshape(-1, k)
        measures, weights = (part.detach().double() for part in (measures, weights))
        measures, weights = (w / w.sum(-1, keepdim=True) for w in (measures, weights))
        return BarycenterProblem.of(measures, weights, self.geometry, self.eps)


def _space(geometry: object, eps: object) -> float:
    """Return eps; raise unless the space is one on which sources and targets are the same."""
    if not isinstance(geometry, Geometry):
        raise wrong("geometry", "a Geometry such as Grid(64, 64), on which all measures are", geometry)
    n, m = geometry.shape
    if n != m or geometry.batch_shape:
        raise ValueError(f"a barycenter is on one space with as many sources as targets, got {geometry}")
    where = asymmetry(geometry)
    if where:
        raise ValueError(
            f"a barycenter needs a symmetric cost between the atoms of one support, got {geometry}, {where}"
        )
    return as_positive("eps", eps)


def _as_rows(values: Tensor, n: int, geometry: Geometry) -> Tensor:
    """Return measures as *batch k n; images on the grid become vectors."""
    rows = as_vectors(values, n, geometry.sizes)
    if rows.ndim >= 2 and rows.shape[-1] == n and rows.shape[-2] > 0:
        return rows
    images = f" or (*batch, k, {', '.join(map(str, geometry.sizes))})" if len(geometry.sizes) > 1 else ""
    raise ValueError(
        f"measures must have the shape (*batch, k, {n}){images} on {geometry}, got {tuple(values.shape)}"
    )
