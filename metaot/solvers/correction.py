r"""The correction of a Sinkhorn step: what is smooth in its error, found on a coarser level.

Near the solution a step changes the error e of a potential, in units of eps, into A e, where

    A = diag(P 1)^-1 P diag(b)^-1 P^T,

and the residual is r = (I - A) e. So e = r + (I - A)^-1 A r, and the second part is smooth: A r has no detail that
is finer than the plan is wide. It is found with the plan of a coarser grid, or between clusters of atoms, by
conjugate gradients on the symmetric I - D^1/2 A D^-1/2 with D = diag(P 1), and brought back: a two-grid method
(Brandt, Math. Comp. 1977) of which a Sinkhorn step is the smoother. Where marginals have the price KL a step moves
less: A has a factor for each side.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Kernel, contract
from metaot.problem import Problem
from metaot.solvers.anderson import FARTHEST

_ENOUGH, _ITERATIONS = 0.1, 40
"""The part of the right side that conjugate gradients leave, and their most iterations."""

_DIRECTIONS = 24
"""Directions of the first solution that are kept: along them all others are found without products."""

_HALVED, _STEPS, _GROWN = 0.5, 6, 2.0
"""The part of the error that so many corrected steps may leave, and how many times larger one of them may make it:
an instance with more goes on without."""


class Transfer(ABC):
    """From the points of a level to the nodes of a coarser one, and back: a dataclass with a batch, or indexed."""

    @abstractmethod
    def restrict(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch coarse_n"]:
        """Divide numbers at the points among the nodes."""

    @abstractmethod
    def prolong(
        self, of: "Correction", mean: Float[Tensor, "batch coarse_n"], found: Float[Tensor, "batch coarse_n"]
    ) -> Float[Tensor, "batch n"]:
        """Return (I - A)^-1 A r at the points; `mean` is r at the nodes, and `found` is (I - A)^-1 A r there."""


@final
@dataclass(frozen=True)
class Interpolation(Transfer):
    """Linear interpolation along the axes of a grid, and its transpose."""

    tables: tuple[Float[Tensor, "_ _"], ...]
    """For each axis, from the nodes to the points."""

    def restrict(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch coarse_n"]:
        return contract(x.double(), tuple(H.mT for H in self.tables)).to(x)

    def prolong(
        self, of: "Correction", mean: Float[Tensor, "batch coarse_n"], found: Float[Tensor, "batch coarse_n"]
    ) -> Float[Tensor, "batch n"]:
        return contract(found.double(), self.tables).to(found)

    def __getitem__(self, index: Tensor) -> "Interpolation":
        return self


@final
@dataclass(frozen=True)
class Correction:
    """The plans of a batch of coarse problems, and the way to their nodes; see the module."""

    kernel: Kernel
    """The plan, but for the target's scalings where its marginal has a price."""
    inverse_columns: Float[Tensor, "batch coarse_m"]
    """What the target's atoms are multiplied by between the kernel's transpose and the kernel."""
    damping: Float[Tensor, "batch 1"]
    """How far a step moves with the residual of the balanced problem."""
    weights: Float[Tensor, "batch coarse_n"]
    roots: Float[Tensor, "batch coarse_n"]
    """Square roots of P 1, for a mass of one."""
    transfer: Transfer
    directions: Float[Tensor, "batch kept coarse_n"]
    images: Float[Tensor, "batch kept coarse_n"]
    curvatures: Float[Tensor, "batch kept"]
    """Those of the first solution; of directions that there are not, zeros and ones."""
    active: Bool[Tensor, "batch"]
    """Which instances are corrected."""
    mark: Float[Tensor, "batch"]
    """The error when it was last looked at."""
    point: Float[Tensor, "batch _"]
    """The potential then; empty before."""
    steps: int = 0
    """The steps since then."""

    @classmethod
    def of(cls, coarse: Problem, f: Float[Tensor, "batch coarse_n"], transfer: Transfer) -> "Correction":
        """Prepare the correction by potentials that are near the solution of a coarse problem."""
        a, b, eps = coarse.a, coarse.b, expand_eps(coarse.eps, f)
        g, kernel = coarse.geometry.best_plan(f + eps * a.log(), b, coarse.eps)
        sides, ones = coarse.marginals.in_units_of(coarse.eps), torch.ones_like(b)
        level = sides.level(a, b, f / eps, g / eps)
        v = sides.target.scaling(ones, g / eps - level)
        sums = kernel.times(v)
        mass = sums.sum(-1, keepdim=True)
        one = torch.ones_like(a[:, :1])
        kept = coarse.a.new_zeros(len(f), 0, f.shape[-1])
        return cls(
            kernel=kernel,
            inverse_columns=divided(v, b * mass),
            damping=coarse.marginals.target.best(coarse.marginals.source.best(one, coarse.eps), coarse.eps),
            weights=a,
            roots=(sums / mass).sqrt(),
            transfer=transfer,
            directions=kept,
            images=kept,
            curvatures=kept[..., 0],
            active=sums.isfinite().all(-1),
            mark=torch.full_like(f[:, 0], torch.inf),
            point=f[:, :0],
        )

    def __call__(
        self, weights: Float[Tensor, "batch n"], residual: Float[Tensor, "batch n"]
    ) -> "tuple[Float[Tensor, 'batch n'], Correction]":
        """Return the residual with what is smooth in the error added, and what the next call begins with.

        An instance in which that is too much to be linear in the error goes on without.
        """
        if not bool(self.active.any()):
            return residual, replace(self, steps=self.steps + 1)
        mean = divided(self.transfer.restrict(weights * residual), self.weights)
        mean = self._without_constant(self.roots * mean)
        y, kept = self._solved(self._smooth(mean))
        smooth = self.transfer.prolong(self, divided(mean, self.roots), divided(y, self.roots))
        near = smooth.abs().amax(-1) <= FARTHEST
        corrected = torch.where((self.active & near)[:, None], residual + smooth, residual)
        kept = replace(kept, active=self.active & near, steps=self.steps + 1)
        return torch.where(weights != 0, corrected, residual), kept

    def judged(
        self, f: Float[Tensor, "batch n"], error: Float[Tensor, "batch"]
    ) -> "tuple[Correction, Bool[Tensor, 'batch'] | None]":
        """Look whether the error of f falls; return which instances go on without a correction from here on.

        They go on from `point`: from f, or from the one before if the error has risen since then.
        """
        if self.point.shape != f.shape:
            return replace(self, mark=error, point=f), None
        looks = self.steps > _STEPS
        failed = self.active & ~(error <= (_HALVED if looks else _GROWN) * self.mark)
        judged = replace(self, active=self.active & ~failed)
        if not looks:
            return judged, failed
        rises = failed & ~(error <= self.mark)
        point, mark = torch.where(rises[:, None], self.point, f), torch.where(rises, self.mark, error)
        return replace(judged, mark=mark, point=point, steps=1), failed

    def _smooth(self, y: Float[Tensor, "batch coarse_n"]) -> Float[Tensor, "batch coarse_n"]:
        """Return D^1/2 A D^-1/2 y, without the constant, which changes nothing if both marginals are exact."""
        columns = self.kernel.T.times(divided(y, self.roots)) * self.inverse_columns
        return self._without_constant(self.damping * divided(self.kernel.times(columns), self.roots))

    def _without_constant(self, y: Float[Tensor, "batch coarse_n"]) -> Float[Tensor, "batch coarse_n"]:
        constant = (self.roots * y).sum(-1, keepdim=True) * self.roots
        return y - torch.where(self.damping < 1, 0.0, constant)

    def _solved(self, right: Float[Tensor, "batch coarse_n"]) -> "tuple[Tensor, Correction]":
        """Solve (I - A) y = right up to a rest, first along the directions that were kept."""
        enough = _ENOUGH**2 * right.square().sum(-1)
        shares = torch.einsum("bkn,bn->bk", self.directions, right) / self.curvatures
        y, rest = (torch.einsum("bk,bkn->bn", shares, part) for part in (self.directions, self.images))
        rest = right - rest
        direction, size = rest, rest.square().sum(-1)
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(_ITERATIONS):
            runs = self.active & (size > enough)
            if not bool(runs.any()):
                break
            image = direction - self._smooth(direction)
            curvature = (direction * image).sum(-1)
            runs &= curvature > 0
            step = torch.where(runs, size / curvature, 0.0)[:, None]
            y, rest = y + step * direction, rest - step * image
            if self.directions.shape[1] == 0 and len(made) < _DIRECTIONS:
                made.append((direction * runs[:, None], image * runs[:, None], torch.where(runs, curvature, 1.0)))
            last, size = size, torch.where(runs, rest.square().sum(-1), 0.0)
            direction = rest + torch.where(runs, size / last, 0.0)[:, None] * direction
        if not made:
            return y, self
        directions, images, curvatures = (torch.stack(part, 1) for part in zip(*made, strict=True))
        return y, replace(self, directions=directions, images=images, curvatures=curvatures)


def divided(x: Tensor, by: Tensor) -> Tensor:
    """Return x over what is positive, and zeros elsewhere."""
    return torch.where(by > 0, x / by, 0.0)
