"""How good a predictor is: the protocol, its report and tables. `evaluation.pictures` needs matplotlib."""

from metaot.evaluation.protocol import evaluate
from metaot.evaluation.report import Report

__all__ = ["Report", "evaluate"]
