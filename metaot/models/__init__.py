"""Networks from tensors to tensors."""

from metaot.models.base import Exportable, Network, PotentialModel, single
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
    "Exportable",
    "GroupedPotential",
    "Network",
    "PotentialMLP",
    "PotentialModel",
    "RefinedPotential",
    "SpectralPotential",
    "single",
]
