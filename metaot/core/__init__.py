"""The core: Sinkhorn and Newton on arrays in compiled code, and the choice between them; without torch."""

from metaot.core.compiled import (
    COMPILED,
    Averages,
    Call,
    Compiled,
    Pairs,
    PairSolver,
    Step,
    assign_rows,
    average,
    best_potential,
    exponential_sums,
    hard_minimum,
    multiply_rows,
    quick_products,
    run_together,
    sinkhorn_step,
    sort_rows,
)
from metaot.core.costs import POINT_COSTS, Costs
from metaot.core.method import EVERY, BackEnd, Limits, Result
from metaot.core.status import Status

__all__ = [
    "COMPILED",
    "EVERY",
    "POINT_COSTS",
    "Averages",
    "BackEnd",
    "Call",
    "Compiled",
    "Costs",
    "Limits",
    "PairSolver",
    "Pairs",
    "Result",
    "Status",
    "Step",
    "assign_rows",
    "average",
    "best_potential",
    "exponential_sums",
    "hard_minimum",
    "multiply_rows",
    "quick_products",
    "run_together",
    "sinkhorn_step",
    "sort_rows",
]
