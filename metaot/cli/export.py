"""Export a checkpoint to ONNX, which metaot.OnnxModel or OnnxMap reads without torch."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from metaot.cli.options import add_data_dir, new_file, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a checkpoint, a shipped name such as mnist, or OWNER/NAME")
    parser.add_argument("--out", type=new_file(".onnx"), help="the file to write (default: NAME.onnx here)")
    parser.add_argument(
        "--passes", type=whole(0), help="export with this many refinement steps (default: as trained)"
    )
    add_data_dir(parser)


def run(options: argparse.Namespace) -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"to export, {' and '.join(missing)} must be there: pip install 'metaot[export]'")
    name = Path(options.checkpoint.split("@")[0]).resolve().name
    out = options.out or new_file(".onnx")(f"{name}.onnx")
    from metaot.checkpoint import load, located  # noqa: PLC0415, with torch, which takes seconds

    folder = located(options.checkpoint)
    predictor = load(folder)
    if options.passes is not None:
        if not hasattr(predictor, "passes"):
            raise ValueError(f"--passes is for models of potentials, {options.checkpoint} predicts maps")
        predictor.passes = options.passes
    from metaot.onnx.export import export  # noqa: PLC0415, an extra, which takes longer still

    print(export(predictor, folder, out, data_dir=options.data_dir))
