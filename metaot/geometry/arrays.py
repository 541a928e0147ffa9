"""Geometries as the compiled core takes them: arrays of float64 on a CPU."""

import math

import numpy as np
import torch
from torch import Tensor

from metaot import core
from metaot.core.method import suits_compiled_code
from metaot.geometry.base import Eps, Geometry
from metaot.geometry.grid import Grid
from metaot.geometry.points import Points

_KEPT = 2**22
"""Entries of the largest matrix of angles that is used."""


def has_axes(geometry: Geometry) -> bool:
    """Return whether the geometry is a grid with several axes."""
    return isinstance(geometry, Grid) and len(geometry.sizes) > 1


def is_for_the_core(geometry: Geometry, weights: Tensor) -> bool:
    """Return whether compiled code solves problems with such weights, and sooner than torch."""
    if not (core.COMPILED and weights.is_cpu and weights.dtype == torch.float64):
        return False
    axes = has_axes(geometry)
    return suits_compiled_code(geometry.shape, has_axes=axes, needs_matrix=not (axes or _is_cloud(geometry)))


def core_costs(geometry: Geometry) -> core.Costs:
    """Return what the core knows of a geometry: axes, points with a named cost, or a matrix."""
    if isinstance(geometry, Grid):
        return geometry.core_costs
    if isinstance(geometry, Points) and _is_cloud(geometry):
        keeps_matrix = math.prod(geometry.shape) <= _KEPT and not geometry.batch_shape
        if geometry.cost_name != "sphere" or not keeps_matrix:  # angles take longer to make than to read
            x, y = geometry.x.detach().numpy(), geometry.y.detach().numpy()
            return core.Costs.between_points(x, y, str(geometry.cost_name))
    return core.Costs.of_matrix(geometry.cost_rows(slice(None)).detach().numpy())


def temperatures(eps: Eps, count: int) -> np.ndarray:
    """Return one temperature for each of a flat batch."""
    return eps.detach().numpy().reshape(-1) if isinstance(eps, Tensor) else np.full(count, eps)


def _is_cloud(geometry: Geometry) -> bool:
    return isinstance(geometry, Points) and geometry.cost_name in core.POINT_COSTS
