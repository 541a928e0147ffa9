"""Networks from tensors to tensors."""

from metaot.models.alone import Alone
from metaot.models.base import Evaluator, PotentialModel, by_columns, single
from metaot.models.grouped import GroupedPotential
from metaot.models.mlp import PotentialMLP
from metaot.models.refined import RefinedPotential
from metaot.models.spectral import SpectralPotential

MODELS: dict[str, type[PotentialModel]] = {
    "PotentialMLP": PotentialMLP,
    "SpectralPotential": SpectralPotential,
    "RefinedPotential": RefinedPotential,
    "GroupedPotential": GroupedPotential,
}

__all__ = [
    "MODELS",
    "Alone",
    "Evaluator",
    "GroupedPotential",
    "PotentialMLP",
    "PotentialModel",
    "RefinedPotential",
    "SpectralPotential",
    "by_columns",
    "single",
]
