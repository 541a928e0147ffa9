"""Export a checkpoint to one ONNX file that metaot.OnnxModel reads without torch."""

import argparse
from pathlib import Path

from metaot import __version__
from metaot.checkpoint import load, read_card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, such as checkpoints/mnist")
    parser.add_argument("--out", type=Path, help="the file to write (default: NAME.onnx here)")
    parser.add_argument("--refine", action="store_true", help="also NAME-refine.onnx: predict and run Sinkhorn")
    parser.add_argument("--int8", action="store_true", help="also NAME-int8.onnx, if it costs at most one step")
    parser.add_argument("--passes", type=int, help="export with this many solver steps inside the prediction")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")


def run(options: argparse.Namespace) -> None:
    from metaot.onnx.export import export  # noqa: PLC0415, onnx is an extra

    out = options.out or Path(options.checkpoint.resolve().name + ".onnx")
    predictor, card = load(options.checkpoint), read_card(options.checkpoint)
    if options.passes is not None:
        predictor.passes = options.passes
    lines = export(
        predictor,
        card,
        out,
        version=__version__,
        refine=options.refine,
        int8=options.int8,
        data_dir=options.data_dir,
    )
    for line in lines:
        print(line)
