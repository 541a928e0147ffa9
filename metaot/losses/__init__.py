"""Losses: distances between distributions that can be minimised."""

from metaot.losses.one_dimension import wasserstein_1d
from metaot.losses.sliced import (
    Slice,
    SlicedEstimate,
    largest_slice,
    max_sliced_wasserstein,
    sliced_estimate,
    sliced_wasserstein,
)

__all__ = [
    "Slice",
    "SlicedEstimate",
    "largest_slice",
    "max_sliced_wasserstein",
    "sliced_estimate",
    "sliced_wasserstein",
    "wasserstein_1d",
]
