"""What is exported: modules that torch traces, made of the networks themselves."""

from metaot.onnx.graph.prediction import Prediction
from metaot.onnx.graph.spaces import space

__all__ = ["Prediction", "space"]
