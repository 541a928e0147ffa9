"""Export a checkpoint for production: python export.py CHECKPOINT [--out FILE.onnx] [--refine] [--int8].

One file, with all that is known of the model inside; `metaot.OnnxModel(file)` answers from it with numpy and
onnxruntime alone. Before anything is written, the file is compared with torch on test problems, in batches
that were not traced, and refused when a potential differs by more than 1e-5 of its range or a step count at all.

--refine writes a second file, FILE-refine.onnx, that predicts and runs Sinkhorn until an error that it is given,
and returns f, g, the error and the steps. --int8 writes FILE-int8.onnx with smaller weights, unless they cost more
than one Sinkhorn step.

Of a model of maps there are two files: FILE.onnx predicts potentials from samples, FILE-push.onnx sends points
where a potential's gradient does; `metaot.OnnxMap(FILE.onnx)` reads both, and recolours pictures.

The graph is in metaot/onnx/graph: from weights and eps to the potentials f and g; the runtime is in
metaot/onnx/runtime.py.
"""

import sys

from metaot.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
