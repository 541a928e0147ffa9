"""What is exported, as torch modules: the same functions as the models', in the form that makes few nodes."""

from metaot.onnx.graph.networks import Network, network
from metaot.onnx.graph.prediction import Prediction
from metaot.onnx.graph.refinement import Refinement
from metaot.onnx.graph.spaces import Space, space

__all__ = ["Network", "Prediction", "Refinement", "Space", "network", "space"]
