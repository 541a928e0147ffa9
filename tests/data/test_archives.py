"""Image sets by name or file, resized, in pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metaot.data.images import ImageArchives


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
    with pytest.raises(FileNotFoundError, match="usps"):
        ImageArchives("usps").split("test", tmp_path)
