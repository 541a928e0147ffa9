"""Tools built from problems, potentials and solvers."""

from metaot.tools.interpolation import displacement_interpolation
from metaot.tools.value import ot_value

__all__ = ["displacement_interpolation", "ot_value"]
