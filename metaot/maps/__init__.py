"""Maps between measures: of entropic plans, at any point, and in several steps."""

from metaot.entropic_map import EntropicMap
from metaot.maps.progressive import ProgressiveMap, progot

__all__ = ["EntropicMap", "ProgressiveMap", "progot"]
