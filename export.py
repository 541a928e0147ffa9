"""Export a checkpoint for production: python export.py CHECKPOINT [--out FILE.onnx].

One file, with all that is known of the model inside; `metaot.load("FILE.onnx")` answers from it with numpy and
onnxruntime only, and any other language from (a, b, eps) -> (f, g). Before anything is written, the file is
compared with torch, in batches that were not traced, and refused when a potential differs by more than 1e-5 of its
range. A model that reads costs becomes (a, b, C, eps) -> (f, g, spread), for any sizes, and may differ by 1e-4.

Of a model of maps there are two files: FILE.onnx predicts potentials from samples, FILE-push.onnx sends points
where a potential's gradient does; `metaot.load("FILE.onnx")` reads both, and recolours pictures.

The graph is in metaot/onnx/graph, made of the networks of metaot/models; the runtime is in metaot/onnx/runtime.py.
"""

import sys

from metaot.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
