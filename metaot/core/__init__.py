"""The core: Sinkhorn and Newton on arrays in compiled code, and the choice between them; without torch."""

from metaot.core.compiled import (
    COMPILED,
    Compiled,
    Pairs,
    PairSolver,
    Step,
    best_potential,
    hard_minimum,
    sinkhorn_step,
)
from metaot.core.costs import POINT_COSTS, Costs
from metaot.core.method import EVERY, BackEnd, Limits, Result
from metaot.core.status import Status

__all__ = [
    "COMPILED",
    "EVERY",
    "POINT_COSTS",
    "BackEnd",
    "Compiled",
    "Costs",
    "Limits",
    "PairSolver",
    "Pairs",
    "Result",
    "Status",
    "Step",
    "best_potential",
    "hard_minimum",
    "sinkhorn_step",
]
