"""Predictors: from a problem to a guess of its dual potentials."""

from metaot.amortize.predictor import AmortizedPotential, Predictor

__all__ = ["AmortizedPotential", "Predictor"]
