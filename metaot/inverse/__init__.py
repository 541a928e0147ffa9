"""Inverse optimal transport: the cost behind observed pairs."""

from metaot.inverse.cost import cost_path, learn_cost, learn_cost_from_plan
from metaot.inverse.covariances import GaussianEstimate, learn_cost_from_covariances
from metaot.inverse.estimate import Certificate, CostEstimate, RankTest, Saliency, certificate
from metaot.inverse.gaussian import Gaussians, UnbalancedPlan
from metaot.inverse.network import NetworkCost, train_cost
from metaot.inverse.penalties import L1, Nuclear, Penalty
from metaot.inverse.surplus import SurplusEstimate, learn_surplus, surplus

__all__ = [
    "L1",
    "Certificate",
    "CostEstimate",
    "GaussianEstimate",
    "Gaussians",
    "NetworkCost",
    "Nuclear",
    "Penalty",
    "RankTest",
    "Saliency",
    "SurplusEstimate",
    "UnbalancedPlan",
    "certificate",
    "cost_path",
    "learn_cost",
    "learn_cost_from_covariances",
    "learn_cost_from_plan",
    "learn_surplus",
    "surplus",
    "train_cost",
]
