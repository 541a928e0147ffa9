"""MNIST: the idx files as they are, and clear words when they are not there."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from metaot.data import Mnist
from metaot.data.images import HELD_OUT, MNIST_FILES, fetch_mnist, read_idx_images

REAL = os.environ.get("METAOT_DATA")
needs_mnist = pytest.mark.skipif(
    REAL is None or not Path(REAL, "mnist", MNIST_FILES["test"]).exists(), reason="no MNIST in METAOT_DATA"
)


def write_idx(path: Path, images: np.ndarray) -> None:
    header = np.array([2051, *images.shape], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + images.tobytes()))


def test_idx_files_are_read_to_the_byte(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", images)
    assert torch.equal(read_idx_images(tmp_path / "x.gz"), torch.from_numpy(images))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    header = np.array([2051, 2, 3, 4], dtype=">i4").tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + b"\0" * 23))
    with pytest.raises(ValueError, match="not a whole idx file"):
        read_idx_images(tmp_path / "x.gz")


def test_missing_data_names_both_ways(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"METAOT_DATA.*metaot fetch mnist"):
        Mnist().split("test", tmp_path)


def test_fetch_writes_what_split_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    images = {"train": _images(HELD_OUT + 3, 1), "test": _images(5, 2)}

    def load_dataset(name: str, split: str) -> "datasets.Dataset":
        features = datasets.Features({"image": datasets.Image()})
        return datasets.Dataset.from_dict({"image": list(images[split])}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fetch_mnist(tmp_path)
    assert torch.equal(Mnist().split("test", tmp_path).images, torch.from_numpy(images["test"]))
    assert len(Mnist().split("train", tmp_path).images) == 3
    assert len(Mnist().split("validation", tmp_path).images) == HELD_OUT


@needs_mnist
def test_real_digits_are_measures(generator: torch.Generator) -> None:
    problem = Mnist(batch=64, eps=(1e-3, 1e-1)).split("test").sample(generator)
    assert problem.a.shape == (64, 784)
    assert torch.allclose(problem.a.sum(-1), torch.ones(64))
    assert 50 < (problem.a > 0).sum(-1).double().mean() < 250
    assert problem.eps.min() >= 1e-3
    assert problem.eps.max() <= 1e-1


@needs_mnist
def test_splits_share_no_image() -> None:
    sizes = {name: len(Mnist().split(name).images) for name in ("train", "validation", "test")}
    assert sizes == {"train": 58000, "validation": 2000, "test": 10000}


def _images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (count, 28, 28)).astype(np.uint8)
