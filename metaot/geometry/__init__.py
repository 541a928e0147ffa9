"""Spaces with a cost: `Dense`, `Grid` and `Points`, and the base `Geometry` of one's own."""

from typing import Any

from torch import Tensor

from metaot.geometry.base import Eps, Geometry
from metaot.geometry.dense import Dense
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points

__all__ = ["Dense", "Eps", "Geometry", "Grid", "Points", "rebuild"]


def rebuild(kind: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Geometry:
    """Make a geometry again from the name of its class, its `tensors()` and its `settings()`.

    Raises KeyError for a class that no imported module defines.
    """
    return Geometry.kinds[kind].rebuilt(tensors, settings)
