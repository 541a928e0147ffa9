"""Spaces with a cost: `Dense`, `Grid` and `Points`, and the base `Geometry` of one's own."""

from metaot.geometry.base import Eps, Geometry
from metaot.geometry.costs import LpPower
from metaot.geometry.dense import Dense
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points

__all__ = ["Dense", "Eps", "Geometry", "Grid", "LpPower", "Points"]
