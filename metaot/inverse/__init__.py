"""Inverse optimal transport: the cost behind observed pairs, and the potential behind a population that moves."""

from metaot.inverse.cost import cost_path, learn_cost, learn_cost_from_plan
from metaot.inverse.covariances import GaussianEstimate, learn_cost_from_covariances
from metaot.inverse.estimate import Certificate, CostEstimate, RankTest, Saliency, certificate
from metaot.inverse.gaussian import Gaussians, UnbalancedPlan
from metaot.inverse.gaussian_snapshots import GaussianSnapshots
from metaot.inverse.learn_potential import learn_potential
from metaot.inverse.network import NetworkCost, train_cost
from metaot.inverse.penalties import L1, Nuclear, Penalty
from metaot.inverse.population import PopulationPotential
from metaot.inverse.potential_network import NetworkPotential
from metaot.inverse.snapshots import Move
from metaot.inverse.surplus import SurplusEstimate, learn_surplus, surplus
from metaot.inverse.terms import Basis, Monomials, Products, Radial

__all__ = [
    "L1",
    "Basis",
    "Certificate",
    "CostEstimate",
    "GaussianEstimate",
    "GaussianSnapshots",
    "Gaussians",
    "Monomials",
    "Move",
    "NetworkCost",
    "NetworkPotential",
    "Nuclear",
    "Penalty",
    "PopulationPotential",
    "Products",
    "Radial",
    "RankTest",
    "Saliency",
    "SurplusEstimate",
    "UnbalancedPlan",
    "certificate",
    "cost_path",
    "learn_cost",
    "learn_cost_from_covariances",
    "learn_cost_from_plan",
    "learn_potential",
    "learn_surplus",
    "surplus",
    "train_cost",
]
