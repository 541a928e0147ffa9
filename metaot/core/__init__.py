"""The core: Sinkhorn and Newton on arrays in compiled code, and the choice between them; without torch."""

from metaot.core.compiled import Compiled
from metaot.core.costs import POINT_COSTS, Costs
from metaot.core.method import BackEnd, Result
from metaot.core.steps import COMPILED, Step, best_potential, hard_minimum, newton, sinkhorn, sinkhorn_step

__all__ = [
    "COMPILED",
    "POINT_COSTS",
    "BackEnd",
    "Compiled",
    "Costs",
    "Result",
    "Step",
    "best_potential",
    "hard_minimum",
    "newton",
    "sinkhorn",
    "sinkhorn_step",
]
