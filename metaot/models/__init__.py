"""Networks from tensors to tensors."""

from metaot.models.base import Exportable, Network, PotentialModel, single
from metaot.models.grouped import GroupedPotential
from metaot.models.modal import ModalPotential
from metaot.models.paper import PotentialMLP
from metaot.models.spectral import RefinedPotential, SpectralPotential

_KINDS = (PotentialMLP, SpectralPotential, RefinedPotential, GroupedPotential, ModalPotential)
MODELS: dict[str, type[PotentialModel]] = {kind.__name__: kind for kind in _KINDS}
"""The networks of potentials that a recipe or a card may name."""

__all__ = [
    "MODELS",
    "Exportable",
    "GroupedPotential",
    "ModalPotential",
    "Network",
    "PotentialMLP",
    "PotentialModel",
    "RefinedPotential",
    "SpectralPotential",
    "single",
]
