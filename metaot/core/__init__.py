"""The compiled core: Sinkhorn and Newton on arrays, float64 on a CPU, without torch."""

from metaot.core.solve import COMPILED, POINT_COSTS, Costs, Result, best_potential, newton, sinkhorn, sinkhorn_step

__all__ = ["COMPILED", "POINT_COSTS", "Costs", "Result", "best_potential", "newton", "sinkhorn", "sinkhorn_step"]
