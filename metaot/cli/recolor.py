"""Give a picture the palette of another one: the colours are moved by a transport map."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaot.pictures import load_picture, moved, palette, pillow, save_picture, side_by_side

if TYPE_CHECKING:
    from PIL.Image import Image

    from metaot.amortize.maps import MapPredictor

Pictures = tuple["Image", "Image | None"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the picture to be recoloured")
    parser.add_argument("target", type=Path, help="the picture whose palette it gets")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where to write the result: .png, .jpg ...")
    parser.add_argument(
        "--model", default="checkpoints/palette",
        help="checkpoint of a palette model (default: checkpoints/palette), or FILE.onnx, exported, which is "
        "there sooner, or `linear` for the Gaussian map",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=0, help="fine-tune by so many Gauss-Newton steps (default: 0)"
    )
    parser.add_argument(
        "--strip", action="store_true", help="write source, target, result and the reverse side by side"
    )
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")


def run(options: argparse.Namespace) -> None:
    if options.steps < 0:
        raise ValueError(f"--steps must not be negative, got {options.steps}")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"{options.out.parent} is not a folder: make it, or name another one with -o")
    source, target = load_picture(options.source), load_picture(options.target)
    recolor = _by_file if Path(options.model).suffix == ".onnx" else _by_torch
    forth, back = recolor(options, source, target)
    result = side_by_side([source, target, forth, back]) if back is not None else forth
    save_picture(result, options.out)
    print(f"written: {options.out}")


def _by_file(options: argparse.Namespace, source: "Image", target: "Image") -> Pictures:
    """Return the source in the target's palette, and the reverse if it is asked for, by onnxruntime."""
    from metaot.onnx.maps import OnnxMap  # noqa: PLC0415, onnxruntime is not needed by others

    if options.steps:
        raise ValueError("--steps fine-tunes with torch: name a checkpoint, not a file, with --model")
    Image, _ = pillow()
    pixels = [np.asarray(image) for image in (source, target)]
    pair = OnnxMap(options.model, threads=options.threads or 1).predict(*map(palette, pixels))
    forth = Image.fromarray(moved(pixels[0], pair.push))
    return forth, Image.fromarray(moved(pixels[1], pair.pull)) if options.strip else None


def _by_torch(options: argparse.Namespace, source: "Image", target: "Image") -> Pictures:
    """Return the same by a checkpoint or the Gaussian map, fine-tuned."""
    import torch  # noqa: PLC0415, takes longer than the work

    from metaot.tools.recolor import recolored  # noqa: PLC0415, the same

    if options.threads:
        torch.set_num_threads(options.threads)
    with torch.no_grad():
        return recolored(source, target, _predictor(options.model), steps=options.steps, reverse=options.strip)


def _predictor(name: str) -> "MapPredictor":
    from metaot.amortize.maps import AmortizedMap, BuresStart  # noqa: PLC0415, torch
    from metaot.checkpoint import load  # noqa: PLC0415, torch

    if name == "linear":
        return BuresStart()
    predictor = load(name)
    if not isinstance(predictor, AmortizedMap) or predictor.dim != 3:
        raise ValueError(f"{name} is no model of palettes: train one with `metaot train palette`")
    return predictor
