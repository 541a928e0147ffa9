"""One network for all problems on the plane."""

from metaot.models.universal.network import UniversalNetwork

__all__ = ["UniversalNetwork"]
