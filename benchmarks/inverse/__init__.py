"""Inverse problems measured; one module for each, one JSON in benchmarks/results."""
