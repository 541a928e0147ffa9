"""A network that reads costs: it solves a smaller problem in a few learnt rounds.

The heaviest targets stand for all, with the mass around them; `metaot.amortize.costs` chooses them. A round is a
Sinkhorn step at a learnt temperature, high at first, and a message from the sources to the targets and back, along
the plan of that step, which says how much more to change f: what would take Sinkhorn many steps, because mass that
is missing at one place has to come from far away. First rounds see fewer targets than later ones.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from metaot import core
from metaot.models.base import Exportable, require_settings

_FEATURES = 3
"""What a round reads of each source: its weight, how much mass it sends, and how much is missing."""
BEYOND = 1.5
"""How many times beyond the costs of the training predictions are still made."""
_LEAST = 1e-6
"""Of the mean weight: weights are at least this, so that logarithms are finite."""
_EMPTY = 1e-4
"""Of its weight: what a source sends at least, in logarithms."""


@final
class CostNetwork(Exportable):
    """A network from weights and a cost matrix, in units of eps, to f in units of eps.

    It has no size of its own: each layer acts on sources, or on targets, alike, and along plans between them. So
    another order of either gives the same potentials in that order.

    Args:
        width: features of each source.
        hidden: units inside each round.
        shares: for each level, of how many targets one is seen, the largest first.
        rounds: rounds at each level.
        cells: how many of the heaviest targets gather the mass of the targets that are nearest to them.
        rows: how many of the heaviest sources say which targets are near.
    """

    of_data = ("spreads",)
    """What training measures: not taken from other weights that it begins with, and no mean of several steps."""

    def __init__(
        self,
        *,
        width: int = 8,
        hidden: int = 24,
        shares: list[int] = [10, 2],  # noqa: B006, not changed
        rounds: list[int] = [3, 3],  # noqa: B006, not changed
        cells: int = 32,
        rows: int = 8,
    ) -> None:
        super().__init__()
        self.config = {
            "width": width, "hidden": hidden, "shares": list(shares), "rounds": list(rounds), "cells": cells,
            "rows": rows,
        }  # fmt: skip
        require_settings(type(self), self.config)
        if len(shares) != len(rounds) or list(shares) != sorted(shares, reverse=True):
            raise ValueError(
                f"shares and rounds have an entry for each level, shares the largest first, got {list(shares)} "
                f"and {list(rounds)}"
            )
        self.shares, self.per_level, self.cells, self.rows = list(shares), list(rounds), cells, rows
        count = sum(rounds)
        self.rounds = nn.ModuleList(Round(width, hidden, first=k == 0) for k in range(count))
        self.cooling = nn.Parameter(torch.linspace(0.8, 0, count, dtype=torch.float32))
        self.warmth = nn.Parameter(torch.full((count,), 0.3, dtype=torch.float32))
        self.register_buffer("spreads", torch.tensor([0.0, 1e9], dtype=torch.float64))
        self.spreads: Tensor
        """The least and the largest spread of costs, in units of eps, of the training."""

    def example(self, batch: int) -> tuple[Tensor, ...]:
        n, sizes = 7 + batch, [11 + 2 * batch + 5 * k for k in range(len(self.shares))]
        x, y = (torch.linspace(0, 1, size, dtype=torch.float32) for size in (n, sizes[-1]))
        costs = (20 * (y[:, None] - x).abs()).expand(batch, -1, -1)
        weights = [torch.full((batch, size), 1 / size, dtype=torch.float32) for size in (n, *sizes)]
        return costs.contiguous(), *weights

    def forward(  # type: ignore[override], the inputs by name
        self,
        costs: Float[Tensor, "batch q n"],
        a: Float[Tensor, "batch n"],
        *weights: Float[Tensor, "batch _"],
    ) -> tuple[Float[Tensor, "batch n"]]:
        """Return f, for costs whose means over sources and over targets are zero, in units of eps as f.

        `weights` are those of the first targets, for each level; the last level has all of them.
        """
        count = (a > 0).sum(-1, keepdim=True)
        share = (a * count).clamp_min(_LEAST)
        spread = self.spread(costs, a, weights[0])
        temperatures = torch.exp(spread * self.cooling + self.warmth)
        state = State(torch.zeros_like(a), None, None)
        sources, rounds = Sources(share, count), iter(zip(self.rounds, temperatures.split(1, -1), strict=True))
        for b, count in zip(weights, self.per_level, strict=True):
            targets = Targets(costs[:, : b.shape[1]], b, relative_log(b))
            for _ in range(count):
                one, T = next(rounds)
                state = one(state, sources, targets, T, spread)
        return (state.f,)

    def arrays(self) -> core.Learnt:
        """Return the network as compiled code takes it."""
        weights = torch.cat([each.flattened() for each in self.rounds if isinstance(each, Round)]).numpy()
        temperatures = torch.cat([self.cooling.detach(), self.warmth.detach()])
        settings = self.config["width"], self.config["hidden"], self.cells, self.rows
        return core.Learnt(settings, tuple(self.per_level), weights, temperatures.numpy())

    def widen(self, spreads: Float[Tensor, "batch"]) -> None:
        """Have the range of spreads contain those of more problems, and some more."""
        low, high = self.spreads
        bounds = torch.minimum(low, spreads.min() / BEYOND), torch.maximum(high, spreads.max() * BEYOND)
        self.spreads.copy_(torch.stack(bounds))

    @staticmethod
    def spread(
        costs: Float[Tensor, "batch q n"], a: Float[Tensor, "batch n"], b: Float[Tensor, "batch p"]
    ) -> Float[Tensor, "batch 1"]:
        """Return the logarithm of the mean size of costs without their means."""
        mean = (costs[:, : b.shape[1]].abs() @ a[..., None])[..., 0]
        return (mean * b).sum(-1, keepdim=True).clamp_min(_LEAST).log()


def relative_log(b: Float[Tensor, "batch q"]) -> Float[Tensor, "batch q"]:
    """Return the logarithm of weights over their mean."""
    return (b / b.mean(-1, keepdim=True)).clamp_min(_EMPTY).log()


class State:
    """What rounds hand on: f, the features of the sources, and the last change of f."""

    def __init__(self, f: Tensor, features: Tensor | None, change: Tensor | None) -> None:
        self.f, self.features, self.change = f, features, change


class Sources:
    """Weights over their mean, and how many sources have one."""

    def __init__(self, share: Tensor, count: Tensor) -> None:
        self.share, self.count, self.logs = share, count, share.log()


class Targets:
    """The targets of a level: costs from all sources, weights, and their logarithms over the mean."""

    def __init__(self, costs: Tensor, weights: Tensor, logs: Tensor) -> None:
        self.costs, self.weights, self.logs = costs, weights, logs


@final
class Round(nn.Module):
    """One round: a Sinkhorn step at a temperature, and a message along its plan."""

    def __init__(self, width: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        read = _FEATURES + (0 if first else width)
        self.value = nn.Linear(read, width)
        self.of_weight = nn.Parameter(0.1 * torch.randn(width))
        self.of_spread = nn.Linear(1, hidden, bias=False)
        self.inner = nn.Linear(read + width, hidden)
        self.outer = nn.Linear(hidden, width + 1)
        self.step = nn.Parameter(torch.ones(()))
        self.momentum = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.outer.weight[-1] = 0
            self.outer.bias[-1] = 0

    def flattened(self) -> Float[Tensor, "k"]:
        """Return all weights one after another, in the order that compiled code knows."""
        tensors = (
            self.value.weight, self.value.bias, self.of_weight, self.of_spread.weight, self.inner.weight,
            self.inner.bias, self.outer.weight, self.outer.bias, self.step, self.momentum,
        )  # fmt: skip
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def forward(self, state: State, sources: Sources, targets: Targets, T: Tensor, spread: Tensor) -> State:
        share, logs, cooler = sources.share, sources.logs, 1 / T
        plan = ((state.f * cooler + logs)[:, None] - targets.costs * cooler[..., None]).softmax(-1)
        sent = (targets.weights[:, None] @ plan)[:, 0] * (sources.count / share) + _EMPTY
        error = sent.log()
        read = torch.stack([error, share * (sent - 1), logs], -1)
        if state.features is not None:
            read = torch.cat([state.features, read], -1)
        heard = relu(plan @ self.value(read) + targets.logs[..., None] * self.of_weight)
        answer = (plan.transpose(1, 2) @ (heard * targets.weights[..., None])) / (share * sent)[..., None]
        units = relu(
            self.inner(torch.cat([read, answer * sources.count[..., None]], -1)) + self.of_spread(spread)[:, None]
        )
        features, more = self.outer(units).split([self.value.out_features, 1], -1)
        change = T * (more[..., 0] - self.step * error)
        if state.change is not None:
            change = change + self.momentum * state.change
        return State(state.f + change, features if state.features is None else state.features + features, change)
