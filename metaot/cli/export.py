"""Export a checkpoint to ONNX, which metaot.OnnxModel or OnnxMap reads without torch."""

import argparse
from pathlib import Path

from metaot import __version__
from metaot.amortize import AmortizedPotential
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import load, located, read_card
from metaot.onnx.beside import fingerprint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint, such as checkpoints/mnist")
    parser.add_argument("--out", type=Path, help="the file to write (default: NAME.onnx here)")
    parser.add_argument("--passes", type=int, help="export with this many refinement steps (default: as trained)")
    parser.add_argument("--data-dir", type=Path, help="data folder (default: $METAOT_DATA, else the user's cache)")


def run(options: argparse.Namespace) -> None:
    from metaot.onnx.export import export  # noqa: PLC0415, onnx is an extra
    from metaot.onnx.export_images import export_universal  # noqa: PLC0415, the same
    from metaot.onnx.export_maps import export_maps  # noqa: PLC0415, the same

    out = options.out or Path(options.checkpoint.resolve().name + ".onnx")
    predictor, card = load(options.checkpoint), read_card(located(options.checkpoint))
    if options.passes is not None:
        predictor.passes = options.passes
    facts = {"version": __version__, "data_dir": options.data_dir}
    if isinstance(predictor, AmortizedPotential):
        lines = export(predictor, card, out, **facts)
    elif isinstance(predictor, UniversalPotential):
        lines = export_universal(predictor, card, out, version=__version__)
    else:
        lines = export_maps(predictor, card, out, weights=fingerprint(located(options.checkpoint)), **facts)
    for line in lines:
        print(line)
