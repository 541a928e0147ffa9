"""Maps between measures, at any point and in several steps; pairs of points; plans between different spaces."""

from metaot.entropic_map import EntropicMap
from metaot.maps.coupling import Coupling, couple
from metaot.maps.gromov_wasserstein import GromovWasserstein, gromov_wasserstein
from metaot.maps.progressive import ProgressiveMap, progot

__all__ = [
    "Coupling",
    "EntropicMap",
    "GromovWasserstein",
    "ProgressiveMap",
    "couple",
    "gromov_wasserstein",
    "progot",
]
