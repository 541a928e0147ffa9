"""Averages of measures: barycenters on one support, and of clouds on points that move."""

from metaot.averages.fixed_support import Barycenter, barycenter, entropic_barycenter
from metaot.averages.free_support import FreeBarycenter, free_barycenter

__all__ = ["Barycenter", "FreeBarycenter", "barycenter", "entropic_barycenter", "free_barycenter"]
