"""A network for few sources and many targets at fixed points: it reads the weights of groups of targets.

Targets that cost about the same from every source form a group, and the potential of the sources hardly depends on
where in a group mass lies. The network predicts that potential, and a few Newton steps between the sources and the
groups, a small problem, refine it.
"""

from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metaot.geometry import Dense, Geometry
from metaot.geometry.checks import require_finite
from metaot.models.base import ModulatedBlock, PotentialModel, chebyshev, log_unit, require_settings
from metaot.problem import Problem

NO_MASS = 1e-6
"""The weight, as a share of the largest one, up to which a source counts as empty."""

_ITERATIONS = 15
"""Of Lloyd's algorithm."""

_ROWS = 64
"""The most sources whose costs are compared."""


@final
class GroupedPotential(PotentialModel):
    """A residual network that reads a, which sources are not empty, and the weights of `groups` of targets.

    `passes` is the largest number of Newton steps between the sources and `fine` groups in a prediction; training
    makes none.

    Args:
        groups: groups of targets whose weights the network reads.
        fine: groups of targets between which and the sources the prediction is refined.
        width: features of each residual layer.
        hidden: units inside each residual layer.
        depth: residual layers.
        demand: features that the weights of the groups are reduced to first.
        passes: the most Newton steps in a prediction.
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
        sizes = {
            "groups": groups,
            "fine": fine,
            "width": width,
            "hidden": hidden,
            "depth": depth,
            "demand": demand,
        }
        require_settings(type(self), {**sizes, "passes": passes})
        groups, fine = min(groups, m), min(fine, m)
        self.config = {
            "n": n, "m": m, "eps": eps, "groups": groups, "fine": fine,
            "width": width, "hidden": hidden, "depth": depth, "demand": demand, "passes": passes,
        }  # fmt: skip
        self.bounds, self.sizes, self.passes = (eps[0], eps[1]), (n, groups), passes
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
        index, costs = grouped(geometry, settings.pop("groups", 512))
        fine_index, fine_costs = grouped(geometry, settings.pop("fine", 1024))
        model = cls(n, m, list(eps), groups=costs.shape[1], fine=fine_costs.shape[1], **settings)
        model.index.copy_(index)
        model.fine_index.copy_(fine_index)
        model.fine_costs.copy_(fine_costs)
        model.unit.copy_(0.2 * costs.std())
        return model

    def forward(  # type: ignore[override], the inputs by name
        self, a: Float[Tensor, "batch n"], demand: Float[Tensor, "batch groups"], eps: Float[Tensor, "batch"]
    ) -> tuple[Tensor, ...]:
        """Return f for the weights of the sources and of the groups of targets."""
        temperature = chebyshev(log_unit(eps, self.bounds))
        demand = self.demand((demand - self.centre) / self.spread)
        supplied = (a > NO_MASS * a.amax(-1, keepdim=True)).to(a)
        x = self.inputs(torch.cat([self.scale_a * a, supplied, demand], -1))
        for block in self.blocks:
            x = block(x, temperature)
        return (self.outputs(self.norm(x)) * self.unit,)

    def read(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        return a, totals(b, self.index, len(self.centre)), eps

    def smaller(self, problem: Problem) -> Problem:
        """Return the problems between the sources and `fine` groups of targets, whose f is nearly the same."""
        demand = totals(problem.b, self.fine_index, self.fine_costs.shape[1])
        a, b = (_of_mass_one(weights.detach().double()) for weights in (problem.a, demand))
        eps = problem.eps.detach().double() if isinstance(problem.eps, Tensor) else problem.eps
        return Problem.trusted(a, b, Dense(self.fine_costs.double()), eps)

    @torch.no_grad()
    def standardise(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> None:
        weights = totals(b, self.index, len(self.centre))
        self.scale_a.copy_(1 / a.std())
        self.centre.copy_(weights.mean(0))
        self.spread.copy_(weights.std(0) + 1e-3 * weights.mean())


def _of_mass_one(weights: Tensor) -> Tensor:
    """Return weights of mass one, without those that count as none."""
    weights = torch.where(weights > NO_MASS * weights.amax(-1, keepdim=True), weights, 0)
    return weights / weights.sum(-1, keepdim=True)


def grouped(geometry: Geometry, count: int) -> tuple[Int[Tensor, "m"], Float[Tensor, "n groups"]]:
    """Return the group of each target, of at most `count` by k-means on their costs, and the groups' mean costs.

    The mean cost of a target is subtracted, because a constant changes no plan. With at least as many groups as
    targets, each target has its own. Raises ValueError for a batch of geometries and for infinite costs.
    """
    if geometry.batch_shape:
        raise ValueError(f"groups are of one geometry, got a batch {geometry.batch_shape} of them")
    C = geometry.cost_rows(slice(None)).detach().double().cpu()
    require_finite("C", C)
    if count >= C.shape[1]:
        return torch.arange(C.shape[1]), C
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(C), generator=generator)[:_ROWS]
    features = (C[rows] - C[rows].mean(0)).T.float()
    index = _clusters(features, count, generator).unique(return_inverse=True)[1]
    sizes = torch.bincount(index)
    return index, totals(C, index, len(sizes)) / sizes


def _clusters(features: Float[Tensor, "m d"], count: int, generator: torch.Generator) -> Int[Tensor, "m"]:
    """Return the cluster of each row by Lloyd's algorithm; an empty cluster keeps its centre."""
    centres = features[torch.randperm(len(features), generator=generator)[:count]]
    index = torch.zeros(len(features), dtype=torch.int64)
    for _ in range(_ITERATIONS):
        index = (centres.square().sum(-1) - 2 * features @ centres.T).argmin(-1)
        sizes = torch.bincount(index, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, index, features)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    return index


def totals(b: Float[Tensor, "*batch m"], index: Int[Tensor, "m"], count: int) -> Float[Tensor, "*batch groups"]:
    """Return the weights of the groups."""
    return torch.zeros(*b.shape[:-1], count, dtype=b.dtype, device=b.device).index_add_(-1, index, b)
