"""The settings of a recipe by their names, such as data.batch: what each means, and other values for them."""

import json
from dataclasses import dataclass, replace
from inspect import Parameter
from typing import Any, final

from metaot.models.base import model_settings
from metaot.settings import meanings, near
from metaot.training.recipe import Recipe

_PLAIN = (bool, int, float, str, tuple, type(None))
_NETWORK = "model_settings"


@final
@dataclass(frozen=True)
class Setting:
    """A setting of a recipe."""

    name: str
    value: Any
    meaning: str


def settings_of(recipe: Recipe) -> list[Setting]:
    """Return all settings with plain values: those of the recipe, of its data and of its network."""
    found = []
    for prefix, settings in (("", recipe), ("data.", recipe.data)):
        words, plain = meanings(type(settings)), {k: v for k, v in vars(settings).items() if isinstance(v, _PLAIN)}
        found += [Setting(prefix + name, value, words.get(name, "")) for name, value in plain.items()]
    words = meanings(recipe.model)
    for name, argument in model_settings(recipe.model).items():
        default = None if argument.default is Parameter.empty else argument.default
        value = recipe.model_settings.get(name, default)
        found.append(Setting(f"{_NETWORK}.{name}", value, words.get(name, "")))
    return found


def override(recipe: Recipe, assignments: list[str]) -> Recipe:
    """Return a recipe with "key=value" assignments made; "data.batch=64" reaches inside.

    A value has the type of the one that it replaces; ValueError says what was expected, or which key is near.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set wants key=value, got {assignment!r}")
        recipe = _assigned(recipe, key.split("."), text)
    return recipe


def _assigned(recipe: Recipe, path: list[str], text: str) -> Recipe:
    key = ".".join(path)
    known: dict[str, Any] = {setting.name: setting.value for setting in settings_of(recipe)}
    known[_NETWORK] = recipe.model_settings
    owner, *inside = path
    if owner == _NETWORK and len(inside) > 1 and isinstance(known.get(f"{owner}.{inside[0]}", 0), dict | None):
        old = recipe.model_settings  # such as model_settings.first.width
        for name in inside:
            old = (old or {}).get(name)
    elif key in known:
        old = known[key]
    else:
        guess = near(key, known)
        raise ValueError(
            f"--set {key}: no setting {key!r}{f', did you mean {guess!r}' if guess else ''}? "
            f"`metaot train {recipe.name} --help` lists them"
        )
    value = _parse(text, old, key)
    if not inside:
        return replace(recipe, **{owner: value})
    if owner == "data":
        return replace(recipe, data=replace(recipe.data, **{inside[0]: value}))  # type: ignore[type-var]
    return replace(recipe, model_settings=_with(recipe.model_settings, inside, value))


def _with(settings: dict[str, Any] | None, path: list[str], value: Any) -> dict[str, Any]:
    """Return settings with another value at a path."""
    old, (name, *inside) = settings or {}, path
    return {**old, name: _with(old.get(name), inside, value) if inside else value}


def _parse(text: str, old: Any, key: str) -> Any:
    """Read `text` as a value of the type of `old`; of any JSON type where there was none."""
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    wanted = f"a value of type {type(old).__name__}"
    if isinstance(old, tuple):
        kind = int if all(isinstance(v, int) for v in old) else float
        wanted = "a list of whole numbers" if kind is int else f"a list of {len(old)} numbers"
        numbers = value if isinstance(value, list) else [value] * (1 if kind is int else len(old))
        fits = kind is int or len(numbers) == len(old)
        if fits and all(type(v) is int or (type(v) is float and kind is float) for v in numbers):
            return tuple(kind(v) for v in numbers)
    elif old is None or type(value) is type(old):
        return value
    elif isinstance(old, float) and type(value) is int:
        return float(value)
    raise ValueError(f"--set {key}: wanted {wanted} (now {old!r}), got {text!r}")
