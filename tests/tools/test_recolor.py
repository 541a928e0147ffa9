"""Recoloured pictures have the palette of the other one and keep all else."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import assert_close

from metaot import pictures
from metaot.amortize.maps import BuresStart
from metaot.cli import main
from metaot.tools.recolor import palette_maps

Image = pytest.importorskip("PIL.Image")


def picture(mode: str = "RGB", size: tuple[int, int] = (90, 70), seed: int = 0):
    """Colours around two centres, inside of [0, 255]."""
    random = np.random.default_rng(seed)
    centres = random.uniform(80, 170, (2, 3))
    pixels = centres[random.integers(0, 2, (size[1], size[0]))] + random.normal(0, 10, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def recolored(source, target, steps: int = 0):
    """Return the source in the target's palette, and the reverse."""
    x, y = (np.asarray(image) for image in (source, target))
    maps = palette_maps(pictures.palette(x), pictures.palette(y), BuresStart(), steps=steps)
    return Image.fromarray(pictures.moved(x, maps.push)), Image.fromarray(pictures.moved(y, maps.pull))


def colours(image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=float).reshape(-1, 3)


def test_the_result_has_the_moments_of_the_target() -> None:
    source, target = picture(seed=1), picture(seed=2)
    forth, back = recolored(source, target)
    for result, wanted in ((forth, target), (back, source)):
        assert np.abs(colours(result).mean(0) - colours(wanted).mean(0)).max() < 2
        assert np.abs(colours(result).std(0) / colours(wanted).std(0) - 1).max() < 0.1


def test_fine_tuning_brings_the_palette_closer() -> None:
    ramp = np.linspace(0, 1, 70 * 90).reshape(70, 90, 1) * (255, 200, 150)
    source, target = (Image.fromarray(part.astype(np.uint8)) for part in (ramp, 255 * (ramp / 255) ** 3))

    def distance(result) -> float:
        levels = np.linspace(0.01, 0.99, 50)
        moved, wanted = (np.quantile(colours(image), levels, axis=0) for image in (result, target))
        return float(np.sqrt(np.mean((moved - wanted) ** 2)))

    before, after = (recolored(source, target, steps)[0] for steps in (0, 5))
    assert distance(after) < 0.7 * distance(before)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = picture(seed=1), picture(seed=2)
    whole = recolored(source, target)[0]
    monkeypatch.setattr(pictures, "_BLOCK", 100)
    assert np.array_equal(np.asarray(recolored(source, target)[0]), np.asarray(whole))


def test_transparency_is_kept_and_hidden_pixels_do_not_count() -> None:
    source, target = picture("RGBA", seed=1), picture(seed=2)
    pixels = np.array(source)
    pixels[:, :45, 3], pixels[:, :45, :3] = 0, (255, 0, 255)
    result = recolored(Image.fromarray(pixels), target)[0]
    assert np.array_equal(np.asarray(result)[..., 3], pixels[..., 3])
    opaque = np.asarray(result)[:, 45:, :3].reshape(-1, 3)
    assert np.abs(opaque.mean(0) - colours(target).mean(0)).max() < 2
    with pytest.raises(ValueError, match="transparent everywhere"):
        pictures.palette(np.asarray(Image.new("RGBA", (5, 5))))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "I;16", "LA", "RGBA", "F"])
def test_every_kind_of_picture_is_read(mode: str, tmp_path: Path) -> None:
    deep = Image.fromarray(np.asarray(picture("L"), np.uint16) * 257)
    image = deep if mode == "I;16" else picture(mode)
    file = tmp_path / ("a.tif" if mode in ("CMYK", "F") else "a.png")
    image.save(file)
    loaded = pictures.load_picture(file)
    assert loaded.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")
    if mode in ("L", "I;16", "LA"):
        assert_close(torch.tensor(colours(loaded)), torch.tensor(colours(picture("L"))), atol=1.0)
    for pair in ((loaded, picture(seed=2)), (picture(seed=2), loaded)):
        assert recolored(*pair)[0].size == pair[0].size


@pytest.fixture
def two_pictures(tmp_path: Path) -> list[str]:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, file in enumerate(files, 1):
        picture(seed=seed).save(file)
    return list(map(str, files))


def test_the_command_writes_pictures_and_strips_without_torch(two_pictures: list[str], tmp_path: Path) -> None:
    """The start of torch would take longer than all the rest."""
    code = """if True:
        import sys; sys.modules["torch"] = None
        from metaot.cli import main
        calls = (["c.jpg", "--model", "linear"], ["d.png"], ["e.png", "--strip"])
        sys.exit(any(main(["recolor", *sys.argv[1:], "-o", *call]) for call in calls))
        """
    done = subprocess.run(
        [sys.executable, "-c", code, *two_pictures], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.count("written") == 3
    for name, size in (("c.jpg", (90, 70)), ("d.png", (90, 70)), ("e.png", (4 * round(90 * 400 / 70) + 24, 400))):
        assert pictures.load_picture(tmp_path / name).size == size


def test_the_command_fine_tunes_a_checkpoint(two_pictures: list[str], tmp_path: Path) -> None:
    results = []
    for steps in ("0", "2"):
        out = tmp_path / f"{steps}.png"
        assert main(["recolor", *two_pictures, "-o", str(out), "--steps", steps]) == 0
        results.append(np.asarray(pictures.load_picture(out)).astype(int))
    assert 0 < np.abs(results[0] - results[1]).max() < 60
