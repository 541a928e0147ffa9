"""Give a picture the palette of another one: the colours are moved by a transport map."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaot.alone import MapModel, MapPair, linear_map
from metaot.pictures import for_strip, load_picture, moved, palette, pillow, save_picture, side_by_side

if TYPE_CHECKING:
    from PIL.Image import Image

    from metaot.amortize.maps import MapPredictor
    from metaot.onnx.maps import OnnxPair

Pictures = tuple["Image", "Image | None"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the picture to be recoloured")
    parser.add_argument("target", type=Path, help="the picture whose palette it gets")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where to write the result: .png, .jpg ...")
    parser.add_argument(
        "--model", default="palette",
        help="checkpoint of a palette model: a folder, or the name of a shipped one (default: palette); or "
        "FILE.onnx, exported; or `linear` for the Gaussian map",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=0, help="fine-tune by so many Gauss-Newton steps, with torch (default: 0)"
    )
    parser.add_argument(
        "--strip", action="store_true", help="write source, target, result and the reverse side by side"
    )
    parser.add_argument("--threads", type=int, help="threads of torch and onnxruntime (default: all, one)")


def run(options: argparse.Namespace) -> None:
    if options.steps < 0:
        raise ValueError(f"--steps must not be negative, got {options.steps}")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"{options.out.parent} is not a folder: make it, or name another one with -o")
    source, target = load_picture(options.source), load_picture(options.target)
    recolor = _fine_tuned if options.steps else _predicted
    forth, back = recolor(options, source, target)
    result = side_by_side([source, target, forth, back]) if back is not None else forth
    save_picture(result, options.out)
    print(f"written: {options.out}")


def _predicted(options: argparse.Namespace, source: "Image", target: "Image") -> Pictures:
    """Return the source in the target's palette, and the reverse if it is asked for, in numpy."""
    Image, _ = pillow()
    pair = _maps(options)(*(palette(np.asarray(image)) for image in (source, target)))
    if not options.strip:
        return Image.fromarray(moved(np.asarray(source), pair.push)), None
    forth, back = (np.asarray(for_strip(image)) for image in (source, target))
    return Image.fromarray(moved(forth, pair.push)), Image.fromarray(moved(back, pair.pull))


def _maps(options: argparse.Namespace) -> "Callable[[np.ndarray, np.ndarray], MapPair | OnnxPair]":
    """Return what finds the maps between two palettes; nothing here imports torch, which takes longer."""
    name = options.model
    if name == "linear":
        return linear_map
    if Path(name).suffix == ".onnx":
        from metaot.onnx.maps import OnnxMap  # noqa: PLC0415, onnxruntime is not needed by others

        model = OnnxMap(name, threads=options.threads or 1)
    else:
        model = MapModel.load(name)
    _require_colours(name, model.dim)
    return model.predict


def _require_colours(name: str, dim: int) -> None:
    if dim != 3:
        raise ValueError(
            f"{name} is a model for dimension {dim}, colours have 3: train one with `metaot train palette`"
        )


def _fine_tuned(options: argparse.Namespace, source: "Image", target: "Image") -> Pictures:
    """Return the same by a checkpoint or the Gaussian map, fine-tuned."""
    if Path(options.model).suffix == ".onnx":
        raise ValueError("--steps fine-tunes with torch: name a checkpoint, not a file, with --model")
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
    if not isinstance(predictor, AmortizedMap):
        raise ValueError(f"{name} is no model of palettes: train one with `metaot train palette`")
    _require_colours(name, predictor.dim)
    return predictor
