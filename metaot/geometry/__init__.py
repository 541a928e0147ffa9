"""Spaces with a cost: `Dense`, `Grid` and `Points` answer the two primitives that solvers ask for."""

from torch import Tensor

from metaot.geometry.base import Eps as Eps
from metaot.geometry.base import Geometry
from metaot.geometry.dense import Dense
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points


def rebuild(kind: str, cost: str | None, tensors: dict[str, Tensor]) -> Geometry:
    """Make a geometry again from the name of its class, its `cost_name` and its `tensors()`."""
    if kind == "Dense":
        return Dense(tensors["C"])
    if cost is None:
        raise ValueError(f"a {kind} whose cost has no name cannot be made again: use Dense(C)")
    if kind == "Points":
        return Points(tensors["x"], tensors["y"], cost)
    if kind == "Grid":
        return Grid(*tensors.values(), cost=cost)
    raise ValueError(f"a geometry is Dense, Points or Grid, got {kind!r}")
