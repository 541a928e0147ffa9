"""Give a picture the palette of another one: the colours are moved by a transport map."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metaot.cli.options import new_file, threads, whole
from metaot.folders import located, read_card
from metaot.gaussian import ArrayMaps, linear_maps
from metaot.pictures import (
    for_strip,
    load_picture,
    moved,
    on_white,
    palette,
    pillow,
    require_format,
    save_picture,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the picture to be recoloured")
    parser.add_argument("target", type=Path, help="the picture whose palette it gets")
    parser.add_argument(
        "-o", "--out", type=new_file(), required=True, help="where to write the result: .png, .jpg ..."
    )
    parser.add_argument(
        "--model", default="palette",
        help="checkpoint of a palette model: a folder, the name of a shipped one (default: palette), OWNER/NAME "
        "on the Hub; or FILE.onnx, exported; or `linear` for the Gaussian map",
    )  # fmt: skip
    parser.add_argument(
        "--steps",
        type=whole(0),
        default=0,
        help="fine-tune by this many Gauss-Newton steps, with torch (default: 0)",
    )
    parser.add_argument(
        "--strip", action="store_true", help="write source, target, result and the reverse side by side"
    )
    parser.add_argument("--threads", type=threads, help="threads of torch and onnxruntime (default: all, one)")


def run(options: argparse.Namespace) -> None:
    require_format(options.out)
    source, target = load_picture(options.source), load_picture(options.target)
    maps = _palette_maps(palette(np.asarray(source)), palette(np.asarray(target)), options)
    if options.strip:
        source, target = for_strip(source), for_strip(target)
        result = on_white(source, target, _recolored(source, maps.push), _recolored(target, maps.pull))
    else:
        result = _recolored(source, maps.push)
    save_picture(result, options.out)
    print(f"written: {options.out}")


def _recolored(image: Any, push: Callable[[np.ndarray], np.ndarray]) -> Any:
    Image, _ = pillow()
    return Image.fromarray(moved(np.asarray(image), push))


def _palette_maps(x: np.ndarray, y: np.ndarray, options: argparse.Namespace) -> ArrayMaps:
    """Return the maps between palettes; torch is imported only where it is needed, because that takes longer."""
    name = options.model
    path = Path(name) if name == "linear" else located(name)
    is_file = path.suffix == ".onnx"
    if options.steps and is_file:
        raise ValueError("--steps fine-tunes with torch: name a checkpoint, not a file, with --model")
    if name == "linear" and not options.steps:
        return linear_maps(x, y)
    if name != "linear" and not is_file:
        _require_colours(name, read_card(path).get("dim"))
    if not options.steps:
        from metaot.onnx.maps import OnnxMap, map_beside  # noqa: PLC0415, onnxruntime, not needed by others

        threads = options.threads or 1
        network = OnnxMap(path, threads=threads) if is_file else map_beside(path, threads=threads)
        if network is not None:
            _require_colours(name, network.dim)
            pair = network.predict(x, y)
            return ArrayMaps(pair.push, pair.pull)
    import torch  # noqa: PLC0415, takes longer than the work

    from metaot.amortize.maps import BuresStart  # noqa: PLC0415, the same
    from metaot.checkpoint import load  # noqa: PLC0415, the same
    from metaot.tools.recolor import palette_maps  # noqa: PLC0415, the same

    if options.threads:
        torch.set_num_threads(options.threads)
    predictor = BuresStart() if name == "linear" else load(path)
    return palette_maps(x, y, predictor, steps=options.steps)


def _require_colours(name: str, dim: int | None) -> None:
    if dim != 3:
        found = "no model of palettes" if dim is None else f"a model for dimension {dim}, colours have 3"
        raise ValueError(f"{name} is {found}: train one with `metaot train palette`")
