"""Maps between two clouds by a network, in numpy alone, from its checkpoint: there is no torch to wait for.

For one pair of clouds on a CPU calls cost more than arithmetic, and starting torch costs more than both.
"""

from metaot.alone.layers import gelu
from metaot.alone.maps import MapModel, MapPair, linear_map
from metaot.alone.palette import PaletteAlone
from metaot.alone.tensors import read_tensors

__all__ = ["MapModel", "MapPair", "PaletteAlone", "gelu", "linear_map", "read_tensors"]
