"""The library that reads and writes pictures: an extra, loaded when it is needed."""

from typing import Any


def pillow() -> tuple[Any, Any]:
    """Return Pillow's modules Image and ImageOps; ImportError tells how to have them."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415
    except ImportError as missing:
        raise ImportError("pictures need pillow: pip install 'metaot[plot]'") from missing
    return Image, ImageOps
