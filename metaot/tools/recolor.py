"""Colour transfer between pictures: a map between palettes, applied pixel by pixel."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot.amortize.maps import MapPredictor
from metaot.brenier import BrenierPair, BrenierPotential, Icnn, SampleProblem
from metaot.data.pillow import pillow
from metaot.solvers import GaussNewton, solve

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 20_000_000
"""The most pixels of a picture."""
_PALETTE = 4096
"""Pixels that stand for a picture's palette."""
_BLOCK = 1 << 13
"""Pixels that are moved at once: what a processor's cache holds."""
_STRIP = 400
"""The height of a strip of pictures."""


def load_picture(path: Path) -> "Image":
    """Read a picture as RGB, or as RGBA where it has transparency; ValueError when it cannot be read."""
    Image, ImageOps = pillow()

    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(
                    f"{path} has {image.width} x {image.height} pixels, more than {LARGEST}: scale it down first"
                )
            clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGBA" if clear else "RGB")
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path} is not a picture that can be read: {error}") from error


def _eight_bits(image: "Image") -> "Image":
    """Return a grey picture of 16 or 32 bits with values up to 255; others as they are."""
    if not (image.mode == "F" or image.mode.startswith("I")):
        return image
    Image, _ = pillow()

    values = np.asarray(image, dtype=np.float32)
    highest = max(float(values.max()), 1e-12)
    full = 65535.0 if image.mode.startswith("I") and highest <= 65535 else highest
    return Image.fromarray((values * (255 / full)).clip(0, 255).round().astype(np.uint8))


def save_picture(image: "Image", path: Path) -> None:
    """Write a picture in the format that the name ends with, whole or not at all."""
    Image, _ = pillow()

    kinds = Image.registered_extensions()
    kind = kinds.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"{path} must end with .png, .jpg or another format that can be written")
    if kind in ("JPEG", "BMP") and image.mode == "RGBA":
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image.getchannel("A"))
        image = ground
    partial = path.with_name(f".{path.name}.part")
    try:
        image.save(partial, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def recolored(
    source: "Image", target: "Image", predictor: MapPredictor, *, steps: int = 0, reverse: bool = False
) -> tuple["Image", "Image | None"]:
    """Return the source in the target's palette; with `reverse`, also the target in the source's.

    Transparency is kept, and pixels that nobody sees are no part of a palette. `steps` of fine-tuning follow the
    prediction. Pixels are moved in blocks, so that the memory does not grow with the picture.
    """
    problem = SampleProblem(palette(source), palette(target))
    pair = predictor.predict(problem)
    if steps:
        pair = solve(problem, init=_trainable(pair), solver=GaussNewton(steps, linear=True)).pair
    return _moved(source, pair), _moved(target, pair.T) if reverse else None


def _trainable(pair: BrenierPair) -> BrenierPair:
    """Return networks with ridges for a pair that has as good as none: the linear map is no start for training."""
    if pair.phi.icnn.hidden != (1,):
        return pair
    icnn = Icnn(pair.phi.icnn.dim, (64,))
    weights = [icnn.weights(torch.Generator().manual_seed(seed)).to(pair.phi.weights) for seed in (0, 1)]
    return BrenierPair(
        BrenierPotential(icnn, weights[0], pair.phi.frame), BrenierPotential(icnn, weights[1], pair.psi.frame)
    )


def palette(image: "Image", count: int = _PALETTE) -> Float[Tensor, "count 3"]:
    """Return colours in [0, 1] of pixels drawn at random, those that can be seen; always the same ones."""
    pixels = np.asarray(image)
    flat = pixels.reshape(-1, pixels.shape[-1])
    generator = np.random.default_rng(0)
    chosen = flat[generator.integers(len(flat), size=4 * count if flat.shape[1] == 4 else count)]
    if flat.shape[1] == 4:
        seen = chosen[chosen[:, 3] > 127]
        if len(seen) < 2:
            seen = flat[flat[:, 3] > 0]
        if len(seen) < 2:
            raise ValueError("the picture is transparent everywhere: it has no palette")
        chosen = seen[generator.integers(len(seen), size=count)] if len(seen) < count else seen[:count]
    return torch.from_numpy(chosen[:, :3].astype(np.float32) / 255)


@torch.no_grad()
def _moved(image: "Image", pair: BrenierPair) -> "Image":
    Image, _ = pillow()

    pixels = np.asarray(image)
    result = pixels.copy()
    flat, colours = result.reshape(-1, result.shape[-1]), pixels.reshape(-1, pixels.shape[-1])
    for start in range(0, len(flat), _BLOCK):
        block = torch.from_numpy(colours[start : start + _BLOCK, :3].astype(np.float32)).div_(255)
        moved = pair.push(block).clamp_(0, 1).mul_(255).round_()
        flat[start : start + _BLOCK, :3] = moved.to(torch.uint8).numpy()
    return Image.fromarray(result)


def side_by_side(images: list["Image"]) -> "Image":
    """Return pictures in a row on white, all of one height."""
    Image, _ = pillow()

    scaled = [image.resize((max(1, round(image.width * _STRIP / image.height)), _STRIP)) for image in images]
    strip = Image.new("RGB", (sum(image.width + 8 for image in scaled) - 8, _STRIP), "white")
    place = 0
    for image in scaled:
        strip.paste(image, (place, 0), image.getchannel("A") if image.mode == "RGBA" else None)
        place += image.width + 8
    return strip
