"""What is trained: every kind of model learns, is measured, loads, and refuses data of another kind."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import tiny
from torch.utils.tensorboard import SummaryWriter

import metaot
from metaot import Grid, Problem
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.checkpoint import read_card
from metaot.cli import main
from metaot.data import Deliveries, Paintings, Palettes, Roads, Shapes
from metaot.models import PotentialMLP
from metaot.models.paper import ResNetIcnn
from metaot.tools.recolor import recoloured_sheet
from metaot.training import train


def gap(folder: Path) -> float:
    """Return how much the optimum is missed by, on the validation problems."""
    figures = read_card(folder)["validation"]
    if "value" in figures:
        return 1 - figures["value"]
    return figures.get("dual_gap") or figures["relative_dual_gap_of_the_network"]


@pytest.mark.parametrize(
    ("name", "steps", "share"),
    [
        ("shapes", 150, 0.2),
        pytest.param("problems", 100, 0.2, marks=pytest.mark.slow),
        pytest.param("universal", 60, 0.9, marks=pytest.mark.slow),
        pytest.param("planted", 150, 0.8, marks=pytest.mark.slow),
        pytest.param("sphere", 60, 0.7, marks=pytest.mark.slow),
    ],
)
def test_seconds_of_training_lower_the_gap(name: str, steps: int, share: float, tmp_path: Path) -> None:
    train(tiny(name, 1), tmp_path / "short", progress=False)
    train(tiny(name, steps), tmp_path / "long", progress=False)
    assert 0 < gap(tmp_path / "long") < share * gap(tmp_path / "short")
    assert name != "shapes" or read_card(tmp_path / "long")["validation"]["steps_saved"] > 3


def test_a_model_of_your_own_places_saves_steps(tmp_path: Path) -> None:
    train(tiny("sphere", 60, warmup=10, average=0.5, validation_batch=4), tmp_path, progress=False)
    model = metaot.load(tmp_path)
    assert read_card(tmp_path)["validation"]["relative_dual_gap"] < 0.05
    problem = Deliveries.on(model.geometry, 6, model.eps).sample(torch.Generator().manual_seed(0))
    cold, warm = (metaot.solve(problem, init=init, tol=1e-6).steps.sum() for init in (None, model))
    assert warm < cold


def test_the_paper_s_network_trains_by_the_same_task(tmp_path: Path) -> None:
    recipe = tiny("sphere", 3, model=PotentialMLP, model_settings={"width": 16, "depth": 1})
    train(recipe, tmp_path, progress=False)
    assert read_card(tmp_path)["validation"]["steps"] > 0


def test_a_loaded_universal_model_predicts_at_any_size(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(tiny("universal", 2), run, progress=False)
    predictor = metaot.load(run)
    assert isinstance(predictor, UniversalPotential)
    assert load_file(run / "model.safetensors")["model.inputs.weight"].dtype == torch.float16
    for sizes in ((5, 5), (12, 7)):
        a, b = torch.rand(2, sizes[0] * sizes[1], generator=generator).softmax(-1)
        assert predictor.predict(Problem(a, b, Grid(*sizes), 0.05)).f.shape == a.shape
    np.savez(tmp_path / "own.npz", images=np.full((4, 6, 6), 9, dtype=np.uint8) + np.eye(6, dtype=np.uint8))
    arguments = ["--data", str(tmp_path / "own.npz"), "--resolution", "6,9", "--eps", "1e-1,5e-2"]
    assert main(["evaluate", str(run), *arguments, "--instances", "2", "--newton", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("own.npz 6 x 6", "own.npz 9 x 9", "0.05", "model"))
    assert (run / "evaluation" / "evaluation.json").exists()


def test_data_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recipe palette learns maps"):
        train(tiny("palette", 1, data=Shapes()), tmp_path, progress=False)
    with pytest.raises(ValueError, match="the recipe shapes learns potentials"):
        train(tiny("shapes", 1, data=Palettes()), tmp_path, progress=False)
    pytest.importorskip("scipy")
    roads = Roads(suppliers=4, customers=8, nodes=40, eps=(0.1, 0.1))
    with pytest.raises(ValueError, match="learns problems on one geometry, and those of Roads"):
        train(tiny("shapes", 1, data=roads), tmp_path, progress=False)


def test_a_network_that_sees_pictures_is_shown_pictures() -> None:
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    predictor = AmortizedMap(ResNetIcnn.for_dim(3, hidden=[4], width=8).float().requires_grad_(False))
    assert recoloured_sheet(predictor, images).shape == (2 * 32, 4 * 32, 3)


def test_the_board_shows_validation_pairs_as_they_improve(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for k in range(20):
        pixels = torch.rand(30, 40, 3) ** (1 + k / 4) * 255
        image.fromarray(pixels.byte().numpy()).save(tmp_path / f"{k:02}.png")
    data = Paintings(batch=2, samples=32, path=str(tmp_path))
    recipe = tiny("palette", 4, data=data, validate_every=2, average=0.0, learning_rate=0.03, warmup=1)
    train(recipe, tmp_path / "run", progress=False)
    board = events.EventAccumulator(str(tmp_path / "run" / "board"), {"images": 0}).Reload()
    (title,) = board.Tags()["images"]
    shown = board.Images(title)
    assert [picture.step for picture in shown] == [2, 4, 4]
    assert "recoloured" in title
    first, last = (np.asarray(image.open(io.BytesIO(shown[k].encoded_image_string))) for k in (0, -1))
    width = first.shape[1] // 4
    assert first.shape == (160, 640, 3)
    assert np.array_equal(first[:, : 2 * width], last[:, : 2 * width])  # source and target
    assert not np.array_equal(first[:, 2 * width :], last[:, 2 * width :])  # as they improve


@pytest.mark.parametrize("name", ["problems", "sphere"])
def test_the_board_shows_places(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = tiny(name, 1, data=tiny("sphere", 1).data)
    task = recipe.task(recipe, None, torch.device("cpu"))
    model = task.predictor(task.new_model().eval().requires_grad_(False))
    figures, pictures = task.measure(model)
    with SummaryWriter(str(tmp_path)) as board:
        for title, picture in pictures.items():
            board.add_image(title, picture, 0, dataformats="HWC")
    shown = events.EventAccumulator(str(tmp_path), {"images": 0}).Reload().Images("places and what they send")
    assert (shown[0].width, len(shown)) == (1260, 1)
    assert figures["marginal_error"] > 0


@pytest.mark.parametrize("name", ["shapes", "planted"])
def test_problems_of_a_step_depend_on_the_seed_and_the_step(name):
    """And those of one are the same each time."""
    cpu, drawn = torch.device("cpu"), []
    for seed in (0, 0, 1, 2):
        recipe = tiny(name, 5, seed=seed)
        task = recipe.task(recipe, None, cpu)
        drawn += [next(iter(vars(task.drawn(step)).values())) for step in (0, 1)]
    same = {(i, j) for j in range(8) for i in range(j) if torch.equal(drawn[i], drawn[j])}
    assert same == {(0, 2), (1, 3)}
