"""Checkpoints: whole or not at all, readable, no code in them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import metaot
from metaot.amortize import AmortizedPotential
from metaot.checkpoint import located, read_card, save, write_atomically
from metaot.geometry import Dense, Geometry, Grid, Points
from metaot.models import PotentialMLP, single
from metaot.problem import Problem

SPACES = {
    "Dense": Dense(torch.rand(6, 6, dtype=torch.float64)),
    "Grid": Grid(2, 3),
    "Points": Points(torch.rand(6, 2, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64), "euclidean"),
}


def predictor(geometry: Geometry) -> AmortizedPotential:
    model = single(PotentialMLP.for_geometry(geometry, (0.01, 0.1), width=8, depth=1))
    return AmortizedPotential(model.eval().requires_grad_(False), geometry, (0.01, 0.1))


def problem(geometry: Geometry, eps: float = 0.05) -> Problem:
    a, b = torch.rand(2, 3, 6, dtype=torch.float64).softmax(-1)
    return Problem(a, b, geometry, eps)


@pytest.mark.parametrize("name", SPACES)
def test_a_loaded_predictor_predicts_the_same(name: str, tmp_path: Path) -> None:
    original = predictor(SPACES[name])
    save(original, tmp_path / "run", note="hello")
    loaded = metaot.load(tmp_path / "run")
    case = problem(SPACES[name])
    weights = original.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())
    torch.testing.assert_close(loaded.predict(case).f, original.predict(case).f, rtol=1e-5, atol=1e-6)
    assert loaded.geometry.matches(original.geometry)
    assert read_card(tmp_path / "run")["note"] == "hello"


def test_the_axes_of_a_grid_are_known_by_their_names() -> None:
    space = Grid(2, 3, cost=("l1", "sqeuclidean"))
    turned = dict(reversed(space.tensors().items()))
    assert Grid.rebuilt(turned, space.settings()).matches(space)


def test_a_file_holds_tensors_by_their_names(tmp_path: Path) -> None:
    save(predictor(Grid(2, 3)), tmp_path)
    content = load_file(tmp_path / "model.safetensors")
    assert {"geometry.axis0", "model.layers.0.0.weight"} <= content.keys()


@pytest.mark.slow  # as test_devices does with the shipped ones
def test_a_fresh_process_loads_what_was_saved(tmp_path: Path) -> None:
    save(predictor(Grid(2, 3)), tmp_path)
    code = f"import metaot; m = metaot.load({str(tmp_path)!r}); print(m.eps, m.geometry.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0.01, 0.1) (6, 6)"


def test_what_is_not_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.json is missing"):
        metaot.load(tmp_path)
    save(predictor(Grid(2, 3)), tmp_path)
    card = read_card(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        metaot.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cost_of_the_users_own_cannot_be_saved(tmp_path: Path) -> None:
    cloud = torch.rand(6, 2, dtype=torch.float64)
    space = Points(cloud, cloud, lambda x, y: (x[..., :, None, 0] - y[..., None, :, 0]).abs())
    with pytest.raises(ValueError, match=r"use Dense\(C\)"):
        save(predictor(space), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_geometry_or_eps_is_refused() -> None:
    known = predictor(Grid(2, 3))
    assert known.predict(problem(Grid(2, 3))).f.shape == (3, 6)  # an equal grid is the same geometry
    with pytest.raises(ValueError, match=r"trained on Grid\(2, 3\).*got a problem on Grid\(3, 2\)"):
        known.predict(problem(Grid(3, 2)))
    with pytest.raises(ValueError, match=r"\[0\.01, 0\.1\], got eps = 0\.2"):
        known.predict(problem(Grid(2, 3), 0.2))
    many = Problem(*torch.rand(2, 2, 6).softmax(-1), Grid(2, 3), torch.tensor([0.05, 0.001]))
    with pytest.raises(ValueError, match=r"eps\[1\] = 0\.001"):
        known.predict(many)
    x, y = torch.rand(2, 6, 2, dtype=torch.float64)
    moved = y.clone()
    moved[3, 1] += 0.25
    with pytest.raises(ValueError, match=r"whose y differ by up to 0\.25, first at y\[3, 1\] = 0\.\d+, got"):
        predictor(Points(x, y)).predict(problem(Points(x, moved)))


def test_a_name_is_a_shipped_checkpoint_unless_a_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("mnist") == Path(metaot.__file__).parents[1] / "checkpoints" / "mnist"
    with pytest.raises(FileNotFoundError, match="nothing is not a checkpoint"):
        metaot.load("nothing")
    (tmp_path / "mnist").mkdir()
    assert located("mnist") == Path("mnist")
