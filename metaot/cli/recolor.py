"""Give a picture the palette of another one: the colours are moved by a transport map."""

import argparse
from pathlib import Path

import torch

from metaot.amortize.maps import AmortizedMap, BuresStart, MapPredictor
from metaot.checkpoint import load
from metaot.pictures import load_picture, save_picture, side_by_side
from metaot.tools.recolor import recolored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the picture to be recoloured")
    parser.add_argument("target", type=Path, help="the picture whose palette it gets")
    parser.add_argument("-o", "--out", type=Path, required=True, help="where to write the result: .png, .jpg ...")
    parser.add_argument(
        "--model", default="checkpoints/palette",
        help="checkpoint of a palette model (default: checkpoints/palette), or `linear` for the Gaussian map",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=0, help="fine-tune by so many Gauss-Newton steps (default: 0)"
    )
    parser.add_argument(
        "--strip", action="store_true", help="write source, target, result and the reverse side by side"
    )
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")


@torch.no_grad()
def run(options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.steps < 0:
        raise ValueError(f"--steps must not be negative, got {options.steps}")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"{options.out.parent} is not a folder: make it, or name another one with -o")
    source, target = load_picture(options.source), load_picture(options.target)
    forth, back = recolored(source, target, _predictor(options.model), steps=options.steps, reverse=options.strip)
    result = side_by_side([source, target, forth, back]) if back is not None else forth
    save_picture(result, options.out)
    print(f"written: {options.out}")


def _predictor(name: str) -> MapPredictor:
    if name == "linear":
        return BuresStart()
    predictor = load(name)
    if not isinstance(predictor, AmortizedMap) or predictor.dim != 3:
        raise ValueError(f"{name} is no model of palettes: train one with `metaot train palette`")
    return predictor
