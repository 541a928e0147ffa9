"""Tools built from problems, potentials and solvers."""

from metaot.tools.interpolation import displacement_interpolation

__all__ = ["displacement_interpolation"]
