"""Production: a model as ONNX, and the runtime, which needs numpy and onnxruntime only.

What is named here needs no torch; `export` and what it imports make the files, and need torch.
"""

from metaot.onnx.maps import OnnxMap, OnnxPair
from metaot.onnx.runtime import OnnxModel
from metaot.onnx.semidiscrete import OnnxSemiDiscrete
from metaot.onnx.solution import OnnxSolution, Potentials

__all__ = ["OnnxMap", "OnnxModel", "OnnxPair", "OnnxSemiDiscrete", "OnnxSolution", "Potentials"]
