"""Maps between measures: of entropic plans, at any point, and in several steps; and pairs of points."""

from metaot.entropic_map import EntropicMap
from metaot.maps.coupling import Coupling, couple
from metaot.maps.progressive import ProgressiveMap, progot

__all__ = ["Coupling", "EntropicMap", "ProgressiveMap", "couple", "progot"]
