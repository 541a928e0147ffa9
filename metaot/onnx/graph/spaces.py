"""A geometry in exported graphs: its costs, and the sums over its atoms at a temperature."""

from typing import final

import torch
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid
from metaot.onnx.graph.sums import LogSums, PlainSums, Sums

PLAIN = 600.0
"""Cost in units of eps up to which sums over a whole grid are plain products, whatever the potentials."""


@final
class Space(nn.Module):
    """The different costs of a grid's axes, or a cost matrix, as the buffers `cost0`, `cost1` ...

    `axes` holds for each axis the index of its cost. `fallback` is whether the plain sums of a grid may be wrong
    at the lowest temperature.
    """

    def __init__(self, geometry: Geometry, lowest: float) -> None:
        super().__init__()
        is_grid = isinstance(geometry, Grid)
        self.sizes = list(geometry.sizes) if is_grid else []
        self.axes: list[int] = []
        costs: list[Tensor] = []
        for cost in geometry.axis_costs or (geometry.cost_rows(slice(None)).detach(),):
            same = [k for k, other in enumerate(costs) if torch.equal(cost, other)]
            self.axes.append(same[0] if same else len(costs))
            if not same:
                costs.append(cost.double().contiguous())
        for k, cost in enumerate(costs):
            self.register_buffer(f"cost{k}", cost)
        self.fallback = is_grid and sum(float(costs[k].amax()) for k in self.axes) > PLAIN * lowest

    def shaped(self, values: Tensor) -> Tensor:
        """Return vectors as functions on the grid."""
        return values.reshape(-1, *self.sizes) if self.sizes else values

    def sums(self, eps: Tensor, *, exact: bool) -> Sums:
        """Return the sums at temperatures eps; not finite where they are not right, unless `exact`."""
        costs = [getattr(self, f"cost{k}") for k in range(max(self.axes) + 1)]
        if exact or not self.sizes:
            return LogSums(eps, [costs[k] for k in self.axes])
        return PlainSums(eps, costs, self.axes)
