"""Export a checkpoint to ONNX, which metaot.OnnxModel or OnnxMap reads without torch."""

import argparse
from pathlib import Path

from metaot.checkpoint import load, located


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, such as checkpoints/mnist")
    parser.add_argument("--out", type=Path, help="the file to write (default: NAME.onnx here)")
    parser.add_argument("--passes", type=int, help="export with this many refinement steps (default: as trained)")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")


def run(options: argparse.Namespace) -> None:
    from metaot.onnx.export import export  # noqa: PLC0415, onnx is an extra

    out = options.out or Path(options.checkpoint.resolve().name + ".onnx")
    predictor = load(options.checkpoint)
    if options.passes is not None:
        predictor.passes = options.passes
    print(export(predictor, located(options.checkpoint), out, data_dir=options.data_dir))
