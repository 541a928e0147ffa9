"""Losses: distances between distributions that can be minimised."""

from metaot.losses.divergence import sharp_sinkhorn_divergence, sinkhorn_divergence, solve_divergence
from metaot.losses.divergence_solution import DivergenceSolution
from metaot.losses.loss import SinkhornLoss
from metaot.losses.one_dimension import wasserstein_1d
from metaot.losses.pairwise import PairDivergences, pairwise
from metaot.losses.sliced import (
    Slice,
    SlicedEstimate,
    largest_slice,
    max_sliced_wasserstein,
    sliced_estimate,
    sliced_wasserstein,
)

__all__ = [
    "DivergenceSolution",
    "PairDivergences",
    "SinkhornLoss",
    "Slice",
    "SlicedEstimate",
    "largest_slice",
    "max_sliced_wasserstein",
    "pairwise",
    "sharp_sinkhorn_divergence",
    "sinkhorn_divergence",
    "sliced_estimate",
    "sliced_wasserstein",
    "solve_divergence",
    "wasserstein_1d",
]
