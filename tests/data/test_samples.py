"""Continuous problems: pictures, split by image, random palettes, and planted pairs with their exact map."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strategies import assert_close

from metaot.brenier import conjugate
from metaot.cli import main
from metaot.data import Paintings, Palettes, Planted
from metaot.data.paintings import read_pixels
from metaot.pictures import pillow

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty small pictures, each of one colour that no other has, and noise."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("data") / "paintings"
    folder.mkdir()
    for k in range(30):
        pixels = torch.randint(0, 3, (20, 30, 3), dtype=torch.uint8) + torch.tensor([8 * k, 100, 50]).byte()
        image.fromarray(pixels.numpy()).save(folder / f"{k:02}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_splits_share_no_image(folder: Path) -> None:
    reds = []
    for split in SPLITS:
        images = Paintings(path=str(folder)).split(split).images
        reds.append({int(image[0, 0, 0]) // 8 for image in images})
    assert set.union(*reds) == set(range(30))
    assert sum(map(len, reds)) == 30


def test_held_out_pairs_are_two_different_whole_images(folder: Path) -> None:
    problem = Paintings(batch=50, samples=30, path=str(folder)).split("test").sample(torch.Generator())
    x, y = ((255 * z[..., 0]).round().long() // 8 for z in (problem.x, problem.y))
    assert (x == x[:, :1]).all()
    assert (x[:, 0] != y[:, 0]).all()


def test_pixels_are_taken_as_they_are_and_training_pairs_by_the_seed(folder: Path) -> None:
    kept = read_pixels(folder / "07.png", pillow()[0].open)
    assert kept.shape == (160, 160, 3)
    assert set(kept[..., 0].unique().tolist()) <= {56, 57, 58}
    train = Paintings(batch=6, samples=40, path=str(folder)).split("train")
    first, again, other = (train.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert first.x.dtype == torch.float32
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_folders_that_hold_no_pictures_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 20 are needed"):
        Paintings(path=str(tmp_path)).split("train")
    for source in (Paintings(path=str(tmp_path / "nowhere")), Paintings()):
        with pytest.raises(FileNotFoundError, match=r"is not a folder: .* recipe palettes"):
            source.split("train", tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read"):
        read_pixels(folder / "notes.txt", pillow()[0].open)


def test_palettes_are_colours() -> None:
    problem = Palettes(batch=64, samples=100).split("train").sample(torch.Generator())
    for z in (problem.x, problem.y):
        assert z.min() >= 0
        assert z.max() <= 1
    assert 0.02 < problem.x.std(1).mean() < 0.4


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_planted_targets_are_the_sources_law_pushed_forward(dim: int) -> None:
    planted = Planted(batch=8, samples=4000, dim=dim).split("test")
    problem, potential = planted.with_map(torch.Generator().manual_seed(1))
    moved, spread = potential.gradient(problem.x), problem.y.std(1)
    assert ((moved.mean(1) - problem.y.mean(1)) / spread).abs().max() < 0.15
    assert (moved.std(1) / spread - 1).abs().max() < 0.15
    x, z = (points - points.mean(1, keepdim=True) for points in (problem.x, moved))
    rest = (z - x @ torch.linalg.lstsq(x, z).solution).var(1).sum(-1) / z.var(1).sum(-1)
    assert rest[0] < 1e-6  # Gaussians, and an affine map
    assert rest[1:].mean() > 0.01


def test_planted_maps_are_optimal() -> None:
    """A gradient of a convex function is: its conjugate gives back what was moved."""
    planted = Planted(batch=4, samples=100).split("test")
    problem, potential = planted.with_map(torch.Generator())
    potential = potential.to(torch.zeros(()))
    back = conjugate(potential, potential.gradient(problem.x.double()))
    assert_close(back.x, problem.x.double(), atol=1e-4)


def test_pictures_are_those_of_the_samples(folder: Path) -> None:
    source = Paintings(batch=5, samples=30, path=str(folder), variety=0.0, pictures=True)
    for split in SPLITS:
        problem = source.split(split).sample(torch.Generator().manual_seed(2))
        assert problem.context.shape == (5, 2, 3, 160, 160)
        for side, samples in enumerate((problem.x, problem.y)):
            assert_close(problem.context[:, side].mean((2, 3)), samples.mean(1), atol=0.01)
    plain = replace(source, pictures=False).split("test").sample(torch.Generator().manual_seed(2))
    assert torch.equal(plain.x, source.split("test").sample(torch.Generator().manual_seed(2)).x)
    with pytest.raises(ValueError, match="set variety=0"):
        replace(source, variety=0.5).split("train")


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as a data set of the library `datasets`, in two splits."""
    datasets = pytest.importorskip("datasets")
    files = sorted(str(file) for file in folder.glob("*.png"))
    features = datasets.Features({"picture": datasets.Image(), "name": datasets.Value("string")})
    parts = {
        name: datasets.Dataset.from_dict({"picture": part, "name": part}, features=features)
        for name, part in (("train", files[:25]), ("test", files[25:]))
    }
    path = tmp_path_factory.mktemp("saved") / "pictures"
    datasets.DatasetDict(parts).save_to_disk(path)
    return path


def test_a_data_set_gives_the_same_pictures_as_a_folder(folder: Path, saved: Path) -> None:
    source = Paintings(batch=3, samples=20, dataset=str(saved), column="picture")
    for split in SPLITS:
        assert torch.equal(source.split(split).images, Paintings(path=str(folder)).split(split).images)


def test_data_sets_without_images_are_told(folder: Path, saved: Path, tmp_path: Path) -> None:
    for column in ("image", "name"):
        with pytest.raises(ValueError, match=r"columns with images are \['picture'\]"):
            Paintings(dataset=str(saved), column=column).split("train")
    with pytest.raises(FileNotFoundError, match="metaot fetch some/where"):
        Paintings(dataset="some/where").split("train", tmp_path)
    with pytest.raises(ValueError, match="name a path or a dataset"):
        Paintings(path=str(folder), dataset=str(saved)).split("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is not a data set that"):
        Paintings(dataset=str(tmp_path / "empty")).split("train")


def test_a_data_set_of_the_hub_is_fetched_once(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_from_disk(saved)
    streamed = {name: part.to_iterable_dataset() for name, part in whole.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: streamed)
    arguments = ["fetch", "some/where", "--column", "picture", "--limit", "22", "--data-dir", str(tmp_path)]
    assert main(arguments) == 0
    images = [Paintings(dataset="some/where").split(split, tmp_path).images for split in SPLITS]
    assert sum(map(len, images)) == 22
    monkeypatch.undo()
    expected = Paintings(dataset=str(saved), column="picture").split("train").images
    assert torch.equal(images[0], expected[: len(images[0])])
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["fetch", "nothing"]) == 2
