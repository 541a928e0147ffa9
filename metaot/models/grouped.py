"""A network for few sources and many targets at fixed places: it reads the target put into groups.

Targets that cost about the same from every source differ in nothing that matters: 10000 customers of 100
suppliers in 512 groups have the same potential of the suppliers to a fraction of eps. The network predicts that
potential, and a few Newton steps between the sources and the groups, which are small, mend what it got wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from metaot import single
from metaot.geometry import Geometry
from metaot.geometry.groups import Groups, totals
from metaot.models.alone import Array, BlockAlone, affine, array, layer, normal
from metaot.models.base import Evaluator, PotentialModel, log_unit
from metaot.models.layers import BlockAt, ModulatedBlock, chebyshev
from metaot.single import DenseProblem

_ENOUGH = 1e-3
"""L1 error between sources and groups at which the Newton steps end: that of the groups themselves is larger."""


@final
class GroupedPotential(PotentialModel):
    """A residual network that reads a, where a is not zero, and the weights of `groups` of targets; then Newton.

    `passes` is the largest number of Newton steps between sources and groups that a prediction contains; 0 for the
    network alone, which is all that training looks at. These steps have `fine` groups of their own.
    """

    refines = True

    def __init__(
        self,
        n: int,
        m: int,
        eps: list[float],
        *,
        groups: int = 512,
        fine: int = 1024,
        width: int = 384,
        hidden: int = 384,
        depth: int = 3,
        demand: int = 64,
        passes: int = 20,
    ) -> None:
        super().__init__()
        groups, fine = min(groups, m), min(fine, m)
        self.config = {
            "n": n, "m": m, "eps": eps, "groups": groups, "fine": fine,
            "width": width, "hidden": hidden, "depth": depth, "demand": demand, "passes": passes,
        }  # fmt: skip
        self.bounds, self.passes = (eps[0], eps[1]), passes
        self.register_buffer("index", torch.zeros(m, dtype=torch.int64))
        self.register_buffer("fine_index", torch.zeros(m, dtype=torch.int64))
        self.register_buffer("fine_costs", torch.zeros(n, fine, dtype=torch.float64))
        self.register_buffer("scale_a", torch.tensor(float(n), dtype=torch.float32))
        self.register_buffer("centre", torch.zeros(groups, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(groups, dtype=torch.float32))
        self.register_buffer("unit", torch.ones((), dtype=torch.float32))
        self.index: Tensor
        self.fine_index: Tensor
        self.fine_costs: Tensor
        self.scale_a: Tensor
        self.centre: Tensor
        self.spread: Tensor
        self.unit: Tensor
        self.demand = nn.Linear(groups, demand)
        self.inputs = nn.Linear(2 * n + demand, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.Linear(width, n)

    @classmethod
    def for_geometry(cls, geometry: Geometry, eps: tuple[float, float], **settings: Any) -> "GroupedPotential":
        n, m = geometry.shape
        groups = Groups.of(geometry, settings.pop("groups", 512))
        fine = Groups.of(geometry, settings.pop("fine", 1024))
        model = cls(n, m, list(eps), groups=groups.costs.shape[1], fine=fine.costs.shape[1], **settings)
        model.index.copy_(groups.index)
        model.fine_index.copy_(fine.index)
        model.fine_costs.copy_(fine.costs)
        model.unit.copy_(0.2 * groups.costs.std())
        return model

    def at(self, eps: Float[Tensor, "temperatures"]) -> "GroupedAt":
        temperature = chebyshev(log_unit(eps, self.bounds))
        return GroupedAt(
            index=self.index,
            fine_index=self.fine_index,
            fine_costs=self.fine_costs,
            eps=eps,
            passes=0 if self.training else self.passes,
            scale_a=self.scale_a,
            demand=self._demand(),
            inputs=(self.inputs.weight, self.inputs.bias),
            blocks=[block.at(temperature) for block in self.blocks],  # type: ignore[operator], a ModulatedBlock
            norm=(self.norm.weight, self.norm.bias),
            outputs=(self.outputs.weight * self.unit, self.outputs.bias * self.unit),
        )

    def _demand(self) -> tuple[Tensor, Tensor]:
        """Return the layer that reads the weights of groups as they are."""
        weight = self.demand.weight / self.spread
        return weight, self.demand.bias - weight @ self.centre

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        weights = totals(b, self.index, len(self.centre))
        self.scale_a.copy_(1 / a.std())
        self.centre.copy_(weights.mean(0))
        self.spread.copy_(weights.std(0) + 1e-3 * weights.mean())


@final
@dataclass(frozen=True)
class GroupedAt(Evaluator):
    """A `GroupedPotential` at a temperature."""

    index: Int[Tensor, "m"]
    fine_index: Int[Tensor, "m"]
    fine_costs: Float[Tensor, "n fine"]
    eps: Float[Tensor, "k"]
    passes: int
    scale_a: Tensor
    demand: tuple[Tensor, Tensor]
    inputs: tuple[Tensor, Tensor]
    blocks: list[BlockAt]
    norm: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, Tensor]

    def __call__(
        self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]
    ) -> Iterator[Float[Tensor, "batch n"]]:
        weights = totals(b, self.index, self.demand[0].shape[1])
        demand = linear(weights, *self.demand)
        x = linear(torch.cat([self.scale_a * a, (a > 0).to(a), demand], -1), *self.inputs)
        for block in self.blocks:
            x = block(x)
        f = linear(torch.layer_norm(x, x.shape[1:], *self.norm), *self.outputs)
        yield f
        if self.passes > 0:
            yield self._refined(f, a, totals(b, self.fine_index, self.fine_costs.shape[1]))

    def _refined(self, f: Tensor, a: Tensor, weights: Tensor) -> Tensor:
        """Refine one problem after the other, on the CPU."""
        C = array(self.fine_costs.cpu())
        temperatures = self.eps.double().expand(len(a)).tolist()
        rows = zip(*(array(value.cpu()) for value in (f, a, weights)), temperatures, strict=True)
        refined = [refined_by_groups(C, *row, passes=self.passes) for row in rows]
        return torch.from_numpy(np.stack(refined)).to(f) if refined else f

    def alone(self) -> "GroupedAlone":
        return GroupedAlone(
            index=array(self.index),
            fine_index=array(self.fine_index),
            fine_costs=array(self.fine_costs),
            eps=float(self.eps),
            passes=self.passes,
            scale_a=float(self.scale_a),
            demand=layer(self.demand),
            inputs=layer(self.inputs),
            blocks=[block.alone() for block in self.blocks],
            norm=layer(self.norm),
            outputs=layer(self.outputs),
        )


@final
@dataclass(frozen=True)
class GroupedAlone:
    """A `GroupedPotential` at a temperature for one problem."""

    index: Array
    fine_index: Array
    fine_costs: Array
    eps: float
    passes: int
    scale_a: float
    demand: tuple[Array, Array]
    inputs: tuple[Array, Array]
    blocks: list[BlockAlone]
    norm: tuple[Array, Array]
    outputs: tuple[Array, Array]

    def __call__(self, a: Array, b: Array) -> Iterator[Array]:
        weights = np.bincount(self.index, b, self.demand[0].shape[1]).astype(np.float32)
        with np.errstate(all="ignore"):
            demand = affine(weights, *self.demand)
            x = affine(np.concatenate((self.scale_a * a, a > 0, demand), dtype=np.float32), *self.inputs)
            for block in self.blocks:
                x = block(x)
            f = affine(normal(x, *self.norm), *self.outputs)
        yield f
        if self.passes > 0:
            fine = np.bincount(self.fine_index, b, self.fine_costs.shape[1])
            yield refined_by_groups(self.fine_costs, f, a, fine, self.eps, passes=self.passes)


def refined_by_groups(C: Array, f: Array, a: Array, b: Array, eps: float, *, passes: int) -> Array:
    """Return f after Newton steps between sources and groups; the best one where a source has no mass."""
    i, j = a.nonzero()[0], b.nonzero()[0]
    if len(i) == 0 or len(j) == 0:
        return f
    if len(j) < len(b):
        C, b = C[:, j], b[j]
    a, b = a[i].astype(np.float64), b.astype(np.float64)
    a, b = a / a.sum(), b / b.sum()
    start = f[i].astype(np.float64) / eps
    problem = DenseProblem(C[i] / eps, a, b)
    result = single.sharp_newton(problem, start, tol=_ENOUGH, max_steps=passes)
    refined = np.empty_like(f)
    others = np.setdiff1d(np.arange(len(f)), i)
    assert result.g is not None
    refined[i] = result.f * eps
    refined[others] = single.best_of_rows(C[others], result.g, b, eps)
    return refined
