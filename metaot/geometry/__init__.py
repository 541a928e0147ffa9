"""Spaces with a cost: `Dense`, `Grid` and `Points` answer the two primitives that solvers ask for."""

from metaot.geometry.base import Eps, Geometry
from metaot.geometry.dense import Dense
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points

__all__ = ["Dense", "Eps", "Geometry", "Grid", "Points"]
