"""Many problems on one grid, step by step together: `sinkhorn_on_axes` with matrix products for all at once.

Only the straight way is here. A problem that strays from it, where a single one would go back or leave floating
point, leaves the others at the best point that it has seen, to be finished alone.
"""

from metaot.single.together.sinkhorn import Together, sinkhorn_together

__all__ = ["Together", "sinkhorn_together"]
