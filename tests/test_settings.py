"""Settings: nonsense is refused before anything is done, and every setting has a meaning."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metaot.data import Drawings, Mnist, Paintings, Palettes, Planted, ProblemFolder, Shapes, Source, Sphere
from metaot.models import GroupedPotential, PotentialMLP, RefinedPotential, SpectralPotential
from metaot.models.base import model_settings
from metaot.models.palette import PaletteIcnn
from metaot.models.paper import ResNetIcnn
from metaot.models.universal import UniversalNetwork
from metaot.recipes import RECIPES
from metaot.settings import meanings, near
from metaot.training import Recipe, override, settings_of, train

NETWORKS = (
    PotentialMLP, SpectralPotential, RefinedPotential, GroupedPotential, PaletteIcnn, ResNetIcnn, UniversalNetwork
)  # fmt: skip


@pytest.mark.parametrize("kind", [Recipe, *Source.__subclasses__()], ids=lambda kind: kind.__name__)
def test_every_field_has_a_meaning(kind: type) -> None:
    if kind.__module__.startswith("metaot."):
        assert {field.name for field in fields(kind)} == meanings(kind).keys()


@pytest.mark.parametrize(
    "kind",
    sorted({*NETWORKS, *(recipe().model for recipe in RECIPES.values())}, key=str),
    ids=lambda kind: kind.__name__,
)
def test_every_setting_of_a_network_has_a_meaning(kind: type) -> None:
    assert meanings(kind).keys() == model_settings(kind).keys()


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_can_be_set_to_its_own_value(name: str) -> None:
    recipe = RECIPES[name]()
    settings = settings_of(recipe)
    assert all(setting.meaning for setting in settings)
    texts = [each.value if isinstance(each.value, str) else json.dumps(each.value) for each in settings]
    same = [f"{each.name}={text}" for each, text in zip(settings, texts, strict=True)]
    assert settings_of(override(recipe, same)) == settings


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0}, {"steps": -3}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"clip": 0.0},
        {"warmup": -1}, {"average": 1.0}, {"average": -0.1}, {"seed": -1}, {"seed": 2**30}, {"save_every": 0},
        {"log_every": 0}, {"validate_every": 0}, {"validation_batch": 0}, {"validation_eps": 0.0},
        {"device": "gpu0"}, {"model_settings": {"widht": 3}}, {"model_settings": {"hidden": 0}},
        {"model_settings": {"passes": -1}}, {"model_settings": {"modes": 1.5}}, {"model_settings": {"first": 3}},
    ],
    ids=str,
)  # fmt: skip
def test_a_recipe_refuses_nonsense(changes: dict[str, Any]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"{next(iter(value)) if isinstance(value, dict) else name}.*"):
        replace(RECIPES["shapes"](), **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Shapes, {"batch": 0}), (Shapes, {"side": 1}), (Shapes, {"eps": (0.0, 0.1)}),
        (Mnist, {"eps": (0.1, 0.01)}),
        (Mnist, {"eps": (float("nan"), 0.1)}), (Drawings, {"sides": ()}), (Drawings, {"sides": (28, 0)}),
        (Palettes, {"samples": 1}), (Planted, {"dim": 0}), (Planted, {"gaussians": 1.5}),
        (Paintings, {"variety": -0.1}), (ProblemFolder, {"eps": (-1.0, -1.0)}), (ProblemFolder, {"batch": -2}),
        (Sphere, {"customers": 1}), (Sphere, {"world": "mars"}), (Sphere, {"demand": "none"}),
    ],
    ids=str,
)  # fmt: skip
def test_data_refuse_nonsense(kind: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(changes)).rstrip('s')}.*got"):
        kind(**changes)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PotentialMLP(4, 4, [0.1, 0.1], width=0), "width must be a whole number of at least 1, got 0"),
        (lambda: PotentialMLP(4, 4, [0.1, 0.1], depth=-1), "depth must be a whole number of at least 0"),
        (lambda: SpectralPotential([8, 8], [0.1, 0.1], moments=0), "moments must be"),
        (lambda: RefinedPotential([8, 8], [0.1, 0.1], modes=1), "modes must be a whole number of at least 2"),
        (lambda: RefinedPotential([8, 8], [0.1, 0.1], first={"widht": 3}), "did you mean 'width'"),
        (lambda: GroupedPotential(4, 9, [0.1, 0.1], groups=0), "groups must be"),
        (lambda: UniversalNetwork(passes=-1), "passes must be"),
        (lambda: UniversalNetwork(modes=5), "modes must be even"),
        (lambda: PaletteIcnn(3, [0]), r"hidden\[0\] must be"),
        (lambda: PaletteIcnn(3, [8], activation="relu"), "activation is one of"),
    ],
)
def test_a_network_refuses_nonsense(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_validation_at_another_eps_than_the_data_is_refused() -> None:
    recipe = replace(RECIPES["shapes"](), validation_eps=0.5)
    with pytest.raises(ValueError, match=r"validation_eps must be in the range of the data, \[0\.01, 0\.01\]"):
        recipe.task(recipe, None, torch.device("cpu"))


def test_a_perceptron_without_hidden_layers_is_linear() -> None:
    assert [type(layer).__name__ for layer in PotentialMLP(3, 4, [0.1, 0.1], depth=0).layers] == ["Linear"]


def test_a_name_is_near_another_one() -> None:
    names = ["steps", "data.batch", "data.eps", "model_settings.width"]
    assert near("batch", names) == "data.batch"
    assert near("stepz", names) == "steps"
    assert near("data.bach", names) == "data.batch"
    assert near("model.width", names) == "model_settings.width"
    assert near("xyzzy", names) is None


def test_a_device_that_is_not_there_is_refused_before_data_are_read(tmp_path: Path) -> None:
    recipe = replace(RECIPES["mnist"](), device="cuda:77")
    with pytest.raises(ValueError, match=r"device 'cuda:77' cannot be used: there is .* CUDA device"):
        train(recipe, tmp_path / "run", data_dir=tmp_path / "nothing")
    assert not (tmp_path / "run").exists()
