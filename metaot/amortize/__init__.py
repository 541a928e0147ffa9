"""Predictors: from a problem to a guess of its dual potentials."""

from metaot.amortize.predictor import AmortizedPotential, Predictor, StagedPredictor
from metaot.amortize.starts import GaussianStart, ZeroStart

__all__ = ["AmortizedPotential", "GaussianStart", "Predictor", "StagedPredictor", "ZeroStart"]
