"""A network for problems whose costs change: it reads the weights and the cost matrix.

What must hold is built in, not learnt. Costs enter without their means over sources and over targets, in units of
eps, so that adding u(x) + v(y) to a cost adds u to f and v to g, and scaling cost and eps scales f. Targets are
chosen by weight, and by costs where weights are equal, so that another order of sources or targets gives the same
potentials in that order.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot import core
from metaot.amortize.predictor import StagedPredictor
from metaot.arrays import require_spreads, spread_words
from metaot.geometry.base import expand_eps
from metaot.models.costs import CostNetwork
from metaot.problem import Problem

_least: Callable[..., Any] = torch.sym_min  # of numbers of atoms, as functions that can be recorded
_most: Callable[..., Any] = torch.sym_max
_version = attrgetter("_version")
"""How often a tensor was written to."""
_number: Callable[[Tensor], Any] = Tensor.item
_CONTRAST = 1e-9
"""How much costs change weights that are to be compared: enough to order equal ones, always in the same way."""
_DIGITS = 1e4
"""The digits of a cost, in units of the spread, from which that order is taken."""
_PRICED = 3.0
"""What a forbidden pair costs, in units of the largest cost without means."""
_FITTED, FITS = 1e-14, 500
"""The accuracy of means over allowed pairs, and the most iterations to it."""


@final
class CostPotential(StagedPredictor):
    """Predicts problems on any geometry of which a cost matrix fits into memory: each problem may have its own.

    Units do not matter. What counts is by how many eps costs differ: their mean size, without means over sources
    and over targets. Problems for which that is outside of the range of the training raise ValueError.
    """

    def __init__(self, model: CostNetwork) -> None:
        self.model = model
        self._tensors = list(model.parameters())
        self._packed: tuple[object, core.Learnt] | None = None

    @property
    def domain(self) -> str:
        return spread_words(self.model.spreads.tolist())

    def __repr__(self) -> str:
        return f"CostPotential for {self.domain}"

    def _stages(self, flat: Problem) -> Iterator[Tensor]:
        found = self._by_core(flat)
        if found is None:
            seen = encode(flat, self.model)
            self._require_known(seen.spread)
            (f,) = self._network(flat)(*seen.inputs(self.model.cooling))
            found = f.to(seen.offset) * seen.eps + seen.offset
        yield found

    def _by_core(self, flat: Problem) -> Tensor | None:
        """Return f by compiled code; None where only torch has it, or somebody takes derivatives."""
        model, a = self.model, flat.a
        takes_gradients = torch.is_grad_enabled() and (model.cooling.requires_grad or a.requires_grad)
        if takes_gradients or not flat.suits_core or model.cooling.dtype != torch.float32 or len(a) == 0:
            return None
        problems, C = flat.measures(), flat.geometry.cost_rows(slice(None)).detach().numpy()
        counts = targets_seen(max(map(np.count_nonzero, problems[1])), model)
        f, spreads = core.learnt_potentials(self._arrays(), counts, C, problems, threads=torch.get_num_threads())
        if min(spreads.tolist()) < 0:
            return None
        self._require_known(torch.from_numpy(spreads))
        return torch.from_numpy(f)

    def _require_known(self, spreads: Tensor) -> None:
        """Refuse problems unlike those of the training; while it lasts, learn what they are like."""
        if self.model.training:
            self.model.widen(spreads)
        else:
            require_spreads(spreads.tolist(), self.model.spreads.tolist())

    def _arrays(self) -> core.Learnt:
        """Return the network in arrays, packed anew when a weight was written to."""
        state = [*map(Tensor.data_ptr, self._tensors), *map(_version, self._tensors)]
        if self._packed is None or self._packed[0] != state:
            self._packed = state, self.model.arrays()
        return self._packed[1]


class Encoded(NamedTuple):
    """Problems as a `CostNetwork` reads them, and what undoes it."""

    costs: Float[Tensor, "batch q n"]
    """From the chosen targets to all sources, without means, in units of eps."""
    a: Float[Tensor, "batch n"]
    weights: list[Float[Tensor, "batch _"]]
    """Of the first targets, for each level."""
    eps: Float[Tensor, "batch 1"]
    offset: Float[Tensor, "batch n"]
    """The means over targets, which f contains."""
    spread: Float[Tensor, "batch"]

    def inputs(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return what the network is called with, in the dtype and on the device of its weights."""
        return tuple(value.to(like) for value in (self.costs, self.a, *self.weights))


Chosen = tuple[Int[Tensor, "batch rows"], Int[Tensor, "batch columns"]]
"""Sources and targets, in order."""


class View(NamedTuple):
    """What of problems the network sees: the chosen targets, and costs from the chosen sources and to these."""

    targets: Int[Tensor, "batch q"]
    counts: list[int]
    """How many of the targets each level has."""
    rows: Float[Tensor, "batch k m"]
    columns: Float[Tensor, "batch n q"]


@torch.no_grad()
def encode(problem: Problem, model: CostNetwork) -> Encoded:
    """Choose the targets that the network sees, with the mass around them, and remove means from their costs."""
    a, b = problem.a, problem.b
    C = problem.geometry.cost_rows(slice(None)).to(a)
    C = C.expand(len(a), *C.shape[-2:])
    view = looked_at(a, b, C, model)
    if not bool(torch.isfinite(view.rows.sum() + view.columns.sum())):
        view = looked_at(a, b, finite(C), model)
    return encoded(a, b, torch.as_tensor(expand_eps(problem.eps, a)).to(a), view, model)


def looked_at(
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    C: Float[Tensor, "batch n m"],
    model: CostNetwork,
    choose: Callable[..., Chosen] | None = None,
) -> View:
    """Choose sources and targets, by `heaviest`, or by what does the same.

    This and `encoded` are recorded as graphs, in which numbers of atoms are not known: so functions of torch make
    these numbers.
    """
    counts = targets_seen(_number((b > 0).sum(-1).amax()), model)
    sources, targets = (choose or heaviest)(a, b, C, _least(C.shape[-2], model.rows), counts[-1])
    return View(targets, counts, taken(C, sources, 1), taken(C, targets, 2))


def encoded(
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    eps: Float[Tensor, "..."],
    view: View,
    model: CostNetwork,
) -> Encoded:
    """Gather the mass of all targets at those that the network sees; its finite costs are overwritten."""
    middle, costs = view.targets[:, : model.cells], view.columns
    near = _cells(view.rows, middle)
    weights = [_gathered(b, near, view.targets[:, :count], middle.shape[1]) for count in view.counts]
    offset = (costs[..., : view.counts[0]] @ weights[0][..., None])[..., 0]
    offset -= (offset * a).sum(-1, keepdim=True)
    means = a[:, None] @ costs
    eps = eps.expand(a.shape[0], 1)
    costs = costs.sub_(means).sub_(offset[..., None]).div_(eps[..., None]).mT
    spread = model.spread(costs, a, weights[0])[:, 0].exp()
    return Encoded(costs, a, weights, eps, offset, spread)


def targets_seen(m: int, model: CostNetwork) -> list[int]:
    """Return how many targets each level has, of m with mass."""
    return [_least(m, _most(m // share, model.cells)) for share in model.shares]


def heaviest(
    a: Float[Tensor, "batch n"],
    b: Float[Tensor, "batch m"],
    C: Float[Tensor, "batch n m"],
    rows: int,
    columns: int,
) -> Chosen:
    """Return the heaviest sources and targets, in order; costs decide where weights are equal."""
    chosen = a.topk(rows, -1), b.topk(columns, -1)
    if not (_is_tied(a, chosen[0].values) or _is_tied(b, chosen[1].values)):
        return chosen[0].indices, chosen[1].indices
    a, b = told_apart(a, b, finite(C))
    return a.topk(rows, -1).indices, b.topk(columns, -1).indices


def told_apart(
    a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], C: Float[Tensor, "batch n m"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
    """Change equal weights a little, each according to its finite costs."""
    D = C - C.mean(-1, keepdim=True)
    D = (D - D.mean(-2, keepdim=True)).square()
    unit = D.mean((-2, -1), keepdim=True).clamp_min(torch.finfo(D.dtype).tiny)[..., 0]
    a, b = (w * (1 + _CONTRAST * (_DIGITS * D.mean(axis) / unit).frac()) for w, axis in ((a, -1), (b, -2)))
    return a, b


def _is_tied(w: Tensor, chosen: Tensor) -> bool:
    """Return whether two chosen weights are equal, or the least of them is also the weight of others."""
    least = chosen[:, -1:]
    return bool(((w >= least).sum(-1) > chosen.shape[-1]).any() or (chosen[:, 1:] == chosen[:, :-1]).any())


def taken(C: Float[Tensor, "batch n m"], index: Int[Tensor, "batch k"], axis: int) -> Tensor:
    """Return some rows or columns of each matrix."""
    shape = [*C.shape]
    shape[axis] = index.shape[1]
    return C.gather(axis, index[:, :, None].expand(shape) if axis == 1 else index[:, None].expand(shape))


def _cells(rows: Float[Tensor, "batch k m"], targets: Int[Tensor, "batch cells"]) -> Int[Tensor, "batch m"]:
    """Return, for each target, which of some targets has nearly the same costs from some sources.

    Of several with the same costs, as along one road without exits, it is the first.
    """
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows - rows.mean(2, keepdim=True)  # fewer digits are lost
    middle = taken(rows, targets, 2)
    sizes = middle.square().sum(1)
    later = _CONTRAST * sizes.mean(-1, keepdim=True) * torch.arange(sizes.shape[1]).to(sizes)
    return ((sizes + later)[:, None] - 2 * rows.mT @ middle).argmin(-1)


def _gathered(
    b: Float[Tensor, "batch m"], near: Int[Tensor, "batch m"], targets: Int[Tensor, "batch q"], count: int
) -> Float[Tensor, "batch q"]:
    """Share the mass of each cell among the chosen targets in it, by their weights."""
    cells = torch.zeros(b.shape[0], count, dtype=b.dtype, device=b.device)
    own, its = b.gather(1, targets), near.gather(1, targets)
    all_of, chosen = cells.scatter_add(1, near, b), cells.scatter_add(1, its, own)
    weights = own * (all_of / chosen.clamp_min(torch.finfo(b.dtype).tiny)).gather(1, its)
    return weights / weights.sum(-1, keepdim=True)


def finite(C: Float[Tensor, "batch n m"]) -> Float[Tensor, "batch n m"]:
    """Give forbidden pairs a finite cost, above all others once means over allowed pairs are removed."""
    if bool(torch.isfinite(C.sum())):  # in a fraction of the time that a look at each entry takes
        return C
    values, count, u, v = without_forbidden(C)
    for _ in range(FITS):
        u, v, moves = fitted(values, count, u, v)
        if not bool(moves):
            break
    return priced(values, count, u, v)


def without_forbidden(C: Float[Tensor, "batch n m"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return costs with zeros for forbidden pairs, ones for allowed pairs, and first means over them."""
    is_allowed = torch.isfinite(C)
    return (
        torch.where(is_allowed, C, 0.0),
        is_allowed.to(C),
        torch.zeros_like(C[..., :1]),
        torch.zeros_like(C[..., :1, :]),
    )


def fitted(values: Tensor, count: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Bool[Tensor, ""]]:
    """Return better means u over targets and v over sources, of allowed pairs, and whether u still moves."""
    u_next = ((values - v) * count).sum(-1, keepdim=True) / count.sum(-1, keepdim=True).clamp_min(1)
    v = ((values - u_next) * count).sum(-2, keepdim=True) / count.sum(-2, keepdim=True).clamp_min(1)
    return u_next, v, (u_next - u).abs().amax() > _FITTED * u_next.abs().amax()


def priced(values: Tensor, count: Tensor, u: Tensor, v: Tensor) -> Float[Tensor, "batch n m"]:
    """Return costs of which forbidden pairs have more than all others have without their means."""
    top = ((values - u - v) * count).abs().amax((-2, -1), keepdim=True)
    return torch.where(count > 0, values, u + v + _PRICED * top)
