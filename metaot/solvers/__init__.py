"""Solvers that start from a prediction: `solve` and the settings of the methods."""

from metaot.solvers.gauss_newton import GaussNewton
from metaot.solvers.iterate import Solver
from metaot.solvers.maps import MapSolution, MapSolver
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.solution import Bounds, Solution, Status, transport_bounds
from metaot.solvers.solve import solve
from metaot.solvers.symmetric import Symmetric
from metaot.solvers.w2gn import W2GN

__all__ = [
    "W2GN",
    "Bounds",
    "GaussNewton",
    "MapSolution",
    "MapSolver",
    "Newton",
    "Sinkhorn",
    "Solution",
    "Solver",
    "Status",
    "Symmetric",
    "solve",
    "transport_bounds",
]
