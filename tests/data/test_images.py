"""Images as measures: MNIST's files as they are, sets by name or file, resized, in pairs."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from metaot.data import ImagePairs, Mnist
from metaot.data.images import HELD_OUT, MNIST_FILES, ImageArchives, fetch_mnist, read_idx_images

REAL = os.environ.get("METAOT_DATA")
needs_mnist = pytest.mark.skipif(
    REAL is None or not Path(REAL, "mnist", MNIST_FILES["test"]).exists(), reason="no MNIST in METAOT_DATA"
)


def test_a_blank_image_is_named() -> None:
    images = torch.ones(3, 4, 4, dtype=torch.uint8)
    images[1] = 0
    with pytest.raises(ValueError, match="image 1 has no mass"):
        ImagePairs(2, (0.1, 0.1), images)


def test_eps_is_log_uniform_in_its_range(generator: torch.Generator) -> None:
    pairs = ImagePairs(4000, (1e-3, 1e-1), torch.ones(2, 2, 2, dtype=torch.uint8))
    logs = pairs.sample(generator).eps.log10()
    assert -3 <= logs.min() < -2.99
    assert -1.01 < logs.max() <= -1
    assert abs(logs.mean() + 2) < 0.03


def test_idx_files_are_read_to_the_byte_and_refused_when_cut_short(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    content = np.array([2051, *images.shape], dtype=">i4").tobytes() + images.tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(content))
    assert torch.equal(read_idx_images(tmp_path / "x.gz"), torch.from_numpy(images))
    (tmp_path / "x.gz").write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(ValueError, match="not a whole idx file"):
        read_idx_images(tmp_path / "x.gz")


def test_missing_data_names_both_ways(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"METAOT_DATA.*metaot fetch mnist"):
        Mnist().split("test", tmp_path)


@pytest.mark.slow
def test_fetch_writes_what_split_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    random = np.random.default_rng(1)
    counts = {"train": HELD_OUT + 3, "test": 5}
    images = {k: random.integers(1, 255, (count, 28, 28)).astype(np.uint8) for k, count in counts.items()}

    def load_dataset(name: str, split: str) -> "datasets.Dataset":
        features = datasets.Features({"image": datasets.Image()})
        return datasets.Dataset.from_dict({"image": list(images[split])}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    fetch_mnist(tmp_path)
    assert torch.equal(Mnist().split("test", tmp_path).images, torch.from_numpy(images["test"]))
    assert len(Mnist().split("train", tmp_path).images) == 3
    assert len(Mnist().split("validation", tmp_path).images) == HELD_OUT


@needs_mnist
def test_real_digits_are_measures_and_splits_share_none(generator: torch.Generator) -> None:
    sizes = {name: len(Mnist().split(name).images) for name in ("train", "validation", "test")}
    assert sizes == {"train": 58000, "validation": 2000, "test": 10000}
    problem = Mnist(batch=64).split("test").sample(generator)
    assert torch.allclose(problem.a.sum(-1), torch.ones(64))
    assert 50 < (problem.a > 0).sum(-1).double().mean() < 250


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    images = np.zeros((6, 5, 5), dtype=np.uint8)
    for k in range(6):
        images[k, 2, 2] = 40 * (k + 1)
        images[k, 0, 0] = 10
    images[3] = 0  # blank: left out
    np.savez(tmp_path / "own.npz", images=images)
    return tmp_path / "own.npz"


def test_validation_and_test_share_no_image(archive: Path) -> None:
    shares = {}
    for name in ("validation", "test"):
        pairs = ImageArchives(str(archive), side=5, batch=64).split(name)
        shares[name] = set(pairs.sample(torch.Generator().manual_seed(0)).a.amax(1).tolist())
    assert shares["validation"] == {40 / 50, 120 / 130, 200 / 210}
    assert shares["test"] == {80 / 90, 240 / 250}


def test_corners_stay_corners_at_another_resolution(archive: Path) -> None:
    problem = ImageArchives(str(archive), side=9, batch=4).split("test").sample(torch.Generator().manual_seed(0))
    images = problem.a.reshape(4, 9, 9)
    assert problem.geometry.sizes == (9, 9)
    torch.testing.assert_close(images.sum((1, 2)), torch.ones(4))
    assert (images.flatten(1).argmax(1) == 4 * 9 + 4).all()
    assert (images[:, 0, 0] > 0).all()


def test_sources_and_targets_may_be_of_two_sets(archive: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "full.npz", images=np.full((4, 5, 5), 7, dtype=np.uint8))
    pairs = ImageArchives(f"{archive}:{tmp_path / 'full.npz'}", side=5, batch=3).split("test")
    problem = pairs.sample(torch.Generator().manual_seed(0))
    assert (problem.a.count_nonzero(1) == 2).all()
    torch.testing.assert_close(problem.b, torch.full((3, 25), 1 / 25))


def test_unknown_names_and_other_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images are one of .*'usps'.*got 'cats'"):
        ImageArchives("cats").split("test")
    np.savez(tmp_path / "bad.npz", images=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="must hold an array `images`"):
        ImageArchives(str(tmp_path / "bad.npz")).split("test")
