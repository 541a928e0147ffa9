"""Production: a model as one ONNX file, and the runtime that needs numpy and onnxruntime alone.

`runtime` and what it imports know nothing of torch; `export` and what it imports make the files, and need it.
"""

from metaot.onnx.answers import OnnxSolution, Potentials
from metaot.onnx.maps import OnnxMap, OnnxPair
from metaot.onnx.runtime import OnnxModel

__all__ = ["OnnxMap", "OnnxModel", "OnnxPair", "OnnxSolution", "Potentials"]
