"""Continuous transport for the cost |x - y|^2 / 2: convex potentials, and maps that are their gradients."""

from metaot.brenier.conjugate import conjugate
from metaot.brenier.icnn import ACTIVATIONS, Icnn
from metaot.brenier.potential import BrenierPair, BrenierPotential, Frame
from metaot.brenier.problem import SampleProblem

__all__ = ["ACTIVATIONS", "BrenierPair", "BrenierPotential", "Frame", "Icnn", "SampleProblem", "conjugate"]
