"""Tables of what is large, one module for each of benchmarks/scale."""

from benchmarks.tables.scale import semidiscrete

__all__ = ["semidiscrete"]
