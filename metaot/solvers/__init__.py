"""Solvers that start from a prediction: `solve` and the settings of the methods."""

from metaot.solvers.bounds import Bounds, transport_bounds
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.solution import Solution, Status
from metaot.solvers.solve import solve

__all__ = ["Bounds", "Newton", "Sinkhorn", "Solution", "Solver", "Status", "solve", "transport_bounds"]
