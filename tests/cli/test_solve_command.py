"""`metaot solve`: the same answers as in Python, from pictures, arrays and tables, with pictures of them."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch

import metaot
from metaot.cli import main
from metaot.measures import read_measure


def solved(tmp_path: Path, *arguments: str) -> dict[str, np.ndarray]:
    out = tmp_path / "out.npz"
    with chdir(tmp_path):
        assert main(["solve", *arguments, "--out", out.name]) == 0
    with np.load(out) as file:
        return {name: file[name] for name in file}


def saved(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return array


@pytest.fixture
def drawn() -> np.random.Generator:
    return np.random.default_rng(0)


def test_images_are_solved_as_in_python(
    tmp_path: Path, drawn: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (saved(tmp_path / f"{name}.npy", drawn.random((7, 7))) for name in "ab")
    found = solved(tmp_path, "a.npy", "b.npy", "--eps", "1e-2", "--tol", "1e-9")
    weights = [torch.from_numpy(w / w.sum()).flatten() for w in (a, b)]
    solution = metaot.solve(metaot.Problem(*weights, metaot.Grid(7, 7), 1e-2), tol=1e-9)
    assert found["cost"] == pytest.approx(float(solution.cost()), rel=1e-6)
    assert found["lower"] <= found["cost"] <= found["upper"] + 1e-8
    assert np.abs(found["plan"] - solution.plan().numpy()).sum() < 1e-7
    printed = capsys.readouterr().out
    assert all(
        words in printed for words in ("a.npy: 7 x 7 pixels", "prediction of universal", "converged", "bounds")
    )


def test_the_default_eps_is_relative_to_the_mean_cost(tmp_path: Path, drawn: np.random.Generator) -> None:
    x = saved(tmp_path / "x.npy", drawn.normal(size=(9, 2)))
    y = saved(tmp_path / "y.npy", drawn.normal(size=(5, 2)))
    mean = ((x[:, None] - y) ** 2).sum(-1).mean()
    assert solved(tmp_path, "x.npy", "y.npy")["eps"] == pytest.approx(0.01 * mean, rel=1e-2)
    for name, points in (("x", x), ("y", y)):
        saved(tmp_path / f"{name}.npy", 1e3 * points)
    assert solved(tmp_path, "x.npy", "y.npy")["eps"] == pytest.approx(1e4 * mean, rel=1e-2)


def test_a_table_has_a_header_weights_and_degrees(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name;lat;lon;Weight\nParis;48.9;2.4;3\nRome;41.9;12.5;1\n")
    (tmp_path / "b.csv").write_text("latitude,longitude\n52.5,13.4\n40.4,-3.7\n")
    (tmp_path / "plain.tsv").write_text("1\t2\n3\t4\n")
    assert read_measure(tmp_path / "a.csv").weights == pytest.approx([0.75, 0.25])
    assert read_measure(tmp_path / "plain.tsv").points == pytest.approx(np.array([[1, 2], [3, 4]]))
    found = solved(tmp_path, "a.csv", "b.csv", "--cost", "sphere", "--eps", "1e-4")
    kilometres = 0.25 * 878 + 0.5 * 1053 + 0.25 * 1184  # Paris to Berlin and to Madrid, Rome to Berlin
    assert found["cost"] * 6371 == pytest.approx(kilometres, rel=1e-2)


def test_of_pictures_brightness_is_mass_or_darkness(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    ink = image.new("RGBA", (30, 20), "white")
    ink.paste("black", (5, 5, 8, 8))
    ink.putpixel((0, 0), (0, 0, 0, 0))
    ink.save(tmp_path / "ink.png")
    dark, light = (read_measure(tmp_path / "ink.png", dark=each) for each in (True, False))
    assert dark.mass.sum() == pytest.approx(9)
    assert light.mass.sum() == pytest.approx(600 - 9 - 1)
    image.new("L", (60, 60), 255).save(tmp_path / "white.png")
    found = solved(tmp_path, "ink.png", "white.png", "--side", "15")
    assert found["plan"].shape == (150, 150)


@pytest.mark.parametrize("kind", ["image", "points", "line", "many", "weights"])
def test_every_kind_has_a_picture(kind: str, tmp_path: Path, drawn: np.random.Generator) -> None:
    pytest.importorskip("matplotlib")
    shape = {"image": (6, 9), "points": (8, 2), "line": (8, 1), "many": (8, 5), "weights": (12,)}[kind]
    for name in ("a.npy", "b.npy"):
        saved(tmp_path / name, drawn.random(shape))
    points = ["--points"] if kind in ("line", "many") else []
    found = solved(tmp_path, "a.npy", "b.npy", *points, "--picture", "p.png")
    content = (tmp_path / "p.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000
    assert found["plan"].sum() == pytest.approx(1, abs=1e-5)


def test_a_cost_matrix_may_forbid_pairs(tmp_path: Path) -> None:
    for name, array in (("a", [1.0, 1]), ("b", [1.0, 1, 2]), ("C", [[0, np.inf, 1.0], [1, 0, 2]])):
        np.save(tmp_path / f"{name}.npy", np.array(array))
    found = solved(tmp_path, "a.npy", "b.npy", "--cost-matrix", "C.npy")
    assert found["plan"][0, 1] == 0
    assert str(found["status"]) == "converged"
