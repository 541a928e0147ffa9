"""Recipes: one flag overrides any setting, with its type checked."""

import pytest

from metaot.data import source_from_json
from metaot.recipes import RECIPES
from metaot.training import override


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_it_is_called_and_json_holds_its_data(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert source_from_json(recipe.to_json()["data"]) == recipe.data


def test_settings_are_reached_at_any_depth() -> None:
    changes = ["steps=7", "learning_rate=1", "data.batch=3", "data.eps=[0.1, 1]", "model_settings.width=8"]
    recipe = override(RECIPES["shapes"](), changes)
    assert recipe.steps == 7
    assert recipe.learning_rate == 1.0
    assert (recipe.data.batch, recipe.data.eps) == (3, (0.1, 1.0))
    assert recipe.model_settings["width"] == 8
    assert override(recipe, ["data.eps=0.5"]).data.eps == (0.5, 0.5)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("steps", "wants key=value, got 'steps'"),
        ("stepz=3", r"no setting 'stepz'; there are .*'steps'"),
        ("data.bach=3", r"no setting 'bach'; there are \['batch'"),
        ("model_settings.first.width=3", r"no setting 'first'; there are \[\]"),
        ("steps=many", r"type int \(now \d+\), got 'many'"),
        ("steps=1.5", "type int"),
        ("learning_rate=true", "type float"),
        ("data.eps=[1, 2, 3]", "list of 2 numbers"),
    ],
)
def test_a_bad_assignment_says_what_was_expected(assignment: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        override(RECIPES["shapes"](), [assignment])
