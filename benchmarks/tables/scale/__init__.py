"""Tables of what is large, one module for each of benchmarks/scale."""

from benchmarks.tables.scale import clouds, pairs, semidiscrete

__all__ = ["clouds", "pairs", "semidiscrete"]
