"""Maps between measures: of entropic plans, at any point."""

from metaot.entropic_map import EntropicMap

__all__ = ["EntropicMap"]
