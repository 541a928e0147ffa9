"""Pictures and their palettes, with numpy and Pillow only: read, written, moved pixel by pixel in blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metaot.folders import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray

LARGEST = 20_000_000
"""The most pixels of a picture."""
_PALETTE = 4096
"""Pixels that are drawn from a picture as its palette."""
_BLOCK = 1 << 12
"""Pixels that are moved at once: they fit into a processor's cache."""
_SETTINGS: dict[str, dict[str, int]] = {"JPEG": {"quality": 95}, "PNG": {"compress_level": 4}}
"""How formats are written: above level 4, PNG files of photographs take longer and become no smaller."""
_STRIP = 400
"""The height of a strip of pictures."""


def pillow() -> tuple[Any, Any]:
    """Return Pillow's modules Image and ImageOps; the ImportError says how to install it."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415
    except ImportError as missing:
        raise ImportError("pictures need pillow: pip install 'metaot[plot]'") from missing
    return Image, ImageOps


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
            transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
            return _eight_bits(ImageOps.exif_transpose(image)).convert("RGBA" if transparent else "RGB")
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


def require_format(path: Path) -> str:
    """Return the format that a file's name ends with; ValueError unless pictures can be written in it."""
    Image, _ = pillow()
    Image.preinit()  # the usual formats: all formats take longer to import
    suffix = path.suffix.lower()
    kind = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"{path} must end with .png, .jpg or another format that can be written")
    return kind


def save_picture(image: "Image", path: Path) -> None:
    """Write a picture in the format that the name ends with, whole or not at all."""
    kind = require_format(path)
    if kind in ("JPEG", "BMP") and image.mode == "RGBA":
        image = on_white(image)
    write_atomically(path, lambda partial: image.save(partial, format=kind, **_SETTINGS.get(kind, {})))


def palette(pixels: Array) -> Array:
    """Return colours in [0, 1], 4096 x 3, of opaque pixels drawn at random, always with the same seed.

    `pixels` are uint8, height width 3 or 4. Raises ValueError for others, and where all pixels are transparent.
    """
    _require_pixels(pixels)
    flat, count = pixels.reshape(-1, pixels.shape[-1]), _PALETTE
    generator = np.random.default_rng(0)
    chosen = flat[generator.integers(len(flat), size=4 * count if flat.shape[1] == 4 else count)]
    if flat.shape[1] == 4:
        opaque = chosen[chosen[:, 3] > 127]
        if len(opaque) < 2:
            opaque = flat[flat[:, 3] > 0]
        if len(opaque) < 2:
            raise ValueError("the picture is transparent everywhere: it has no palette")
        chosen = opaque[generator.integers(len(opaque), size=count)] if len(opaque) < count else opaque[:count]
    return chosen[:, :3].astype(np.float32) / 255


def moved(pixels: Array, push: Callable[[Array], Array]) -> Array:
    """Return the picture with its colours, k 3 in [0, 1], moved by `push` and clipped, block by block."""
    _require_pixels(pixels)
    result = pixels.copy()
    flat, colours = result.reshape(-1, result.shape[-1]), pixels.reshape(-1, pixels.shape[-1])
    for start in range(0, len(flat), _BLOCK):
        block = colours[start : start + _BLOCK, :3].astype(np.float32)
        block /= 255
        new = push(block).clip(0, 1)
        new *= 255
        flat[start : start + _BLOCK, :3] = np.rint(new, out=new).astype(np.uint8)
    return result


def _require_pixels(pixels: Array) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or pixels.size == 0:
        raise ValueError(
            f"a picture is an array uint8 of shape (height, width, 3 or 4), got {pixels.dtype} {pixels.shape}"
        )


def for_strip(image: "Image") -> "Image":
    """Return a picture scaled to the height of a strip."""
    return image.resize((max(1, round(image.width * _STRIP / image.height)), _STRIP))


def on_white(*images: "Image") -> "Image":
    """Return pictures of one height in a row on white."""
    Image, _ = pillow()
    row = Image.new("RGB", (sum(image.width + 8 for image in images) - 8, images[0].height), "white")
    left = 0
    for image in images:
        row.paste(image, (left, 0), image.getchannel("A") if image.mode == "RGBA" else None)
        left += image.width + 8
    return row
