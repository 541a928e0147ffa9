"""Tools built from problems, potentials and solvers."""

from metaot.tools.plan import Shipments, displacement_interpolation, kilometres, marginal_prices, shipments
from metaot.tools.value import ot_value

__all__ = ["Shipments", "displacement_interpolation", "kilometres", "marginal_prices", "ot_value", "shipments"]
