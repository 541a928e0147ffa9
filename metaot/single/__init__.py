"""Problems without torch, one after another: where calls into a library cost more than the arithmetic.

Potentials and costs are in units of eps. A step of Sinkhorn on 150 x 150 atoms takes two microseconds of
arithmetic on a grid, and five on its atoms with mass; the calls in torch alone take many times that, those in
numpy several times. On grids the steps are compiled.
"""

from metaot.single.axes import AxesProblem, sinkhorn_on_axes
from metaot.single.axes_kernel import LARGEST, AxesKernel, AxesKernels
from metaot.single.choose import is_sharp, refine
from metaot.single.grid import (
    COMPILED,
    Each,
    Kernels,
    dual_value_on_grid_each,
    sinkhorn_on_grid,
    sinkhorn_on_grid_each,
    step_on_grid_each,
)
from metaot.single.near import best_of_rows
from metaot.single.newton import newton
from metaot.single.plan import DenseProblem, Refined, Refinement
from metaot.single.sharp import sharp_newton
from metaot.single.sinkhorn import sinkhorn
from metaot.single.softmin import GridSoftmin
from metaot.single.start import better_start

__all__ = [
    "COMPILED",
    "LARGEST",
    "AxesKernel",
    "AxesKernels",
    "AxesProblem",
    "DenseProblem",
    "Each",
    "GridSoftmin",
    "Kernels",
    "Refined",
    "Refinement",
    "best_of_rows",
    "better_start",
    "dual_value_on_grid_each",
    "is_sharp",
    "newton",
    "refine",
    "sharp_newton",
    "sinkhorn",
    "sinkhorn_on_axes",
    "sinkhorn_on_grid",
    "sinkhorn_on_grid_each",
    "step_on_grid_each",
]
