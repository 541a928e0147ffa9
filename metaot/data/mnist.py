"""Pairs of MNIST digits (LeCun, Cortes, Burges): the paper's first experiment.

Read from the four original idx files in `mnist/` of the data folder; `fetch` downloads them from the hub.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from metaot.data.base import EpsRange, Source, Split
from metaot.data.images import ImagePairs
from metaot.folders import data_folder, find_data, write_atomically

FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
HELD_OUT = 2000
"""The last images of the 60000 for training that are kept for validation."""

_IDX_IMAGES = 2051


@final
@dataclass(frozen=True)
class Mnist(Source):
    """Pairs of digits; the last 2000 training images are for validation, the 10000 test images for test."""

    batch: int = 128
    eps: EpsRange = (1e-2, 1e-2)

    def split(self, name: Split, data_dir: Path | None = None) -> ImagePairs:
        file = FILES["test" if name == "test" else "train"]
        images = read_idx_images(find_data(f"mnist/{file}", data_dir))
        if name == "train":
            images = images[:-HELD_OUT]
        elif name == "validation":
            images = images[-HELD_OUT:]
        return ImagePairs(self.batch, self.eps, images)


def read_idx_images(path: Path) -> UInt8[Tensor, "count height width"]:
    """Read a gzip-compressed idx file of images; ValueError when it is another file or cut short."""
    with gzip.open(path) as file:
        content = file.read()
    magic, *shape = np.frombuffer(content[:16], dtype=">i4").tolist() if len(content) >= 16 else [0]
    if magic != _IDX_IMAGES or len(content) != 16 + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole idx file of images (magic {magic}, {len(content)} bytes)")
    pixels = np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape)
    return torch.from_numpy(pixels.copy())


def fetch(data_dir: Path | None = None) -> Path:
    """Download MNIST from the Hugging Face hub into `mnist/` of the data folder; return that folder."""
    from datasets import load_dataset  # noqa: PLC0415, slow to import and needed only here

    folder = data_folder(data_dir) / "mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for split, file in FILES.items():
        rows = load_dataset("ylecun/mnist", split=split).with_format("numpy")["image"]
        images = np.stack(list(rows)).astype(np.uint8)
        header = np.array([_IDX_IMAGES, *images.shape], dtype=">i4").tobytes()
        content = gzip.compress(header + images.tobytes(), mtime=0)
        write_atomically(folder / file, lambda path, content=content: path.write_bytes(content))
    return folder
