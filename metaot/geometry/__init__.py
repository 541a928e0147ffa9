"""Spaces with a cost: `Dense`, `Grid` and `Points` answer the two primitives that solvers ask for."""

from torch import Tensor

from metaot.geometry.base import Eps, Geometry
from metaot.geometry.dense import Dense
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points

__all__ = ["Dense", "Eps", "Geometry", "Grid", "Points", "rebuild"]


def rebuild(kind: str, cost: str | None, tensors: dict[str, Tensor]) -> Geometry:
    """Make a geometry again from the name of its class, its `cost_name` and its `tensors()`."""
    makers = {
        "Dense": lambda: Dense(tensors["C"]),
        "Points": lambda: Points(tensors["x"], tensors["y"], cost or "sqeuclidean"),
        "Grid": lambda: Grid(*tensors.values(), cost=cost or "sqeuclidean"),
    }
    if kind not in makers:
        raise ValueError(f"a geometry is one of {sorted(makers)}, got {kind!r}")
    return makers[kind]()
