"""Image sets outside the training of the universal model: pairs of one set or of two, at any resolution."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from metaot.data.base import EpsRange, Source, Split
from metaot.data.images import ImagePairs
from metaot.data.mnist import FILES, read_idx_images
from metaot.folders import find_data

FOLDER = "ood"
ARCHIVES = {"usps": "usps.npz", "quickdraw": "quickdraw.npz", "fashion": "fashion_mnist_900.npz"}
NAMES = ("mnist", *ARCHIVES)


@final
@dataclass(frozen=True)
class ImageArchives(Source):
    """Pairs of images of a set, such as "mnist", or of two, such as "fashion:mnist", at `side` x `side` pixels.

    A set is one of `NAMES`, or the path of an .npz file with an array `images` (count height width), uint8. The
    images with even indices are for training and validation, the others for test; MNIST has its own splits.
    """

    name: str = "mnist"
    side: int = 28
    batch: int = 128
    eps: EpsRange = (1e-2, 1e-2)

    def split(self, name: Split, data_dir: Path | None = None) -> ImagePairs:
        first, _, second = self.name.partition(":")
        pools = [_resized(_images(part, name, data_dir), self.side) for part in (first, second or first)]
        return ImagePairs(self.batch, self.eps, pools[0], pools[1])


def _images(name: str, split: Split, data_dir: Path | None) -> UInt8[Tensor, "count height width"]:
    if name == "mnist":
        return read_idx_images(find_data(f"mnist/{FILES['test' if split == 'test' else 'train']}", data_dir))
    if name in ARCHIVES:
        path = find_data(f"{FOLDER}/{ARCHIVES[name]}", data_dir)
    elif name.endswith(".npz"):
        path = Path(name)
    else:
        raise ValueError(f"images are one of {sorted(NAMES)} or an .npz file with `images`, got {name!r}")
    with np.load(path, allow_pickle=False) as archive:
        if "images" not in archive or archive["images"].ndim != 3 or archive["images"].dtype != np.uint8:
            raise ValueError(f"{path} must hold an array `images` (count, height, width) of uint8")
        images = torch.from_numpy(archive["images"])
    images = images[1 if split == "test" else 0 :: 2]
    return images[images.flatten(1).amax(1) > 0]


def _resized(images: UInt8[Tensor, "count height width"], side: int) -> Float[Tensor, "count side side"]:
    """Interpolate linearly between pixels; corners stay corners, as on a `Grid`."""
    if images.shape[1:] == (side, side):
        return images.float()
    return interpolate(images[:, None].float(), (side, side), mode="bilinear", align_corners=True)[:, 0]
