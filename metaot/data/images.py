"""Pairs of images as measures on a grid, intensities as masses: MNIST, other sets by name, and files."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from metaot.data.base import EpsRange, ProblemSet, Source, Split
from metaot.folders import data_folder, find_data, write_atomically
from metaot.geometry import Grid
from metaot.measures import read_archive
from metaot.settings import require_eps, require_whole

MNIST_FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
HELD_OUT = 2000
"""The last of the 60000 training images of MNIST, which are kept for validation."""
FOLDER = "ood"
ARCHIVES = {"usps": "usps.npz", "quickdraw": "quickdraw.npz", "fashion": "fashion_mnist_900.npz"}
NAMES = ("mnist", *ARCHIVES)
_IDX_IMAGES = 2051


@final
@dataclass(frozen=True)
class Mnist(Source):
    """Pairs of digits of MNIST (LeCun, Cortes, Burges): the paper's first experiment.

    The last 2000 training images are for validation, the 10000 test images for test.
    """

    batch: int = 128
    """Problems in a step of training."""
    eps: EpsRange = (1e-2, 1e-2)
    """The lowest and the highest temperature; each problem's is drawn between them."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_eps(self.eps)

    def split(self, name: Split, data_dir: Path | None = None) -> "ImagePairs":
        images = _images("mnist", name, data_dir)
        kept = {"train": slice(-HELD_OUT), "validation": slice(-HELD_OUT, None), "test": slice(None)}[name]
        return ImagePairs(self.batch, self.eps, images[kept])


@final
@dataclass(frozen=True)
class ImageArchives(Source):
    """Pairs of images of a set, such as "mnist", or of two, such as "fashion:mnist", at `side` x `side` pixels.

    A set is one of `NAMES`, or the path of an .npz file with an array `images` (count height width), uint8. The
    images with even indices are for training and validation, the others for test; MNIST has its own splits.
    """

    name: str = "mnist"
    """The image set, or two of them for sources and targets: fashion:mnist."""
    side: int = 28
    """Rows and columns that the images are interpolated to."""
    batch: int = 128
    """Problems in a step of training."""
    eps: EpsRange = (1e-2, 1e-2)
    """The lowest and the highest temperature; each problem's is drawn between them."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, side=self.side)
        require_eps(self.eps)

    def split(self, name: Split, data_dir: Path | None = None) -> "ImagePairs":
        first, _, second = self.name.partition(":")
        pools = [_resized(_images(part, name, data_dir), self.side) for part in (first, second or first)]
        return ImagePairs(self.batch, self.eps, pools[0], pools[1])


@final
@dataclass(frozen=True)
class ImagePairs(ProblemSet):
    """Two images on the unit square, drawn at random with replacement and normalised to mass one.

    The second one is of `images` as well, unless `targets` are given.
    """

    images: Shaped[Tensor, "count height width"]
    targets: Shaped[Tensor, "others height width"] | None = None

    def __post_init__(self) -> None:
        for images in self._both:
            blank = images.flatten(1).amax(1) == 0
            if blank.any():
                raise ValueError(f"image {int(blank.nonzero()[0])} has no mass: leave blank images out")

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        return self.images, self.images if self.targets is None else self.targets

    @property
    def geometry(self) -> Grid:
        return Grid(*self.images.shape[1:])

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch m"]]:
        drawn = [pool[torch.randint(len(pool), (self.batch,), generator=generator)] for pool in self._both]
        return as_weights(drawn[0].double()), as_weights(drawn[1].double())


def as_weights(images: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch n"]:
    """Flatten images and scale each to mass one."""
    flat = images.flatten(-2)
    return flat / flat.sum(-1, keepdim=True)


def read_idx_images(path: Path) -> UInt8[Tensor, "count height width"]:
    """Read a gzip-compressed idx file of images; ValueError when it is another file or cut short."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole idx file of images: {error}") from error
    magic, *shape = np.frombuffer(content[:16], dtype=">i4").tolist() if len(content) >= 16 else [0]
    if magic != _IDX_IMAGES or len(content) != 16 + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole idx file of images (magic {magic}, {len(content)} bytes)")
    pixels = np.frombuffer(content, dtype=np.uint8, offset=16).reshape(shape)
    return torch.from_numpy(pixels.copy())


def fetch_mnist(data_dir: Path | None = None) -> Path:
    """Download MNIST from the Hugging Face hub into `mnist/` of the data folder; return that folder."""
    from datasets import load_dataset  # noqa: PLC0415, slow to import and needed only here

    folder = data_folder(data_dir) / "mnist"
    for split, file in MNIST_FILES.items():
        rows = load_dataset("ylecun/mnist", split=split).with_format("numpy")["image"]
        folder.mkdir(parents=True, exist_ok=True)  # now that there is something to save
        images = np.stack(list(rows)).astype(np.uint8)
        header = np.array([_IDX_IMAGES, *images.shape], dtype=">i4").tobytes()
        content = gzip.compress(header + images.tobytes(), mtime=0)
        write_atomically(folder / file, lambda path, content=content: path.write_bytes(content))
    return folder


def _images(name: str, split: Split, data_dir: Path | None) -> UInt8[Tensor, "count height width"]:
    if name == "mnist":
        file = f"mnist/{MNIST_FILES['test' if split == 'test' else 'train']}"
        fetch = "fetch it from the Hugging Face hub with `metaot fetch mnist`"
        return read_idx_images(find_data(file, data_dir, otherwise=fetch))
    if name in ARCHIVES:
        own = "name an .npz file of your own with an array `images` (count, height, width) of uint8 instead"
        path = find_data(f"{FOLDER}/{ARCHIVES[name]}", data_dir, otherwise=own)
    elif name.endswith(".npz"):
        path = Path(name)
    else:
        raise ValueError(f"images are one of {sorted(NAMES)} or an .npz file with `images`, got {name!r}")
    found = read_archive(path).get("images")
    if found is None or found.ndim != 3 or found.dtype != np.uint8:
        raise ValueError(f"{path} must hold an array `images` (count, height, width) of uint8")
    images = torch.from_numpy(found)
    images = images[1 if split == "test" else 0 :: 2]
    return images[images.flatten(1).amax(1) > 0]


def _resized(images: UInt8[Tensor, "count height width"], side: int) -> Float[Tensor, "count side side"]:
    """Interpolate linearly between pixels; corners stay corners, as on a `Grid`."""
    if images.shape[1:] == (side, side):
        return images.float()
    return interpolate(images[:, None].float(), (side, side), mode="bilinear", align_corners=True)[:, 0]
