"""Which names are public, and where the reference documents each."""

import importlib
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import metaot

PACKAGES = (
    "metaot", "metaot.geometry", "metaot.solvers", "metaot.amortize", "metaot.onnx", "metaot.brenier",
    "metaot.tools", "metaot.data", "metaot.models", "metaot.objectives", "metaot.training", "metaot.evaluation",
    "metaot.core", "metaot.losses", "metaot.averages", "metaot.maps", "metaot.inverse",
)  # fmt: skip
"""Those whose `__all__` is public, in the order in which a name is looked for."""

MODULES = (
    "metaot.checkpoint", "metaot.recipes", "metaot.adapters.pot", "metaot.adapters.ott",
    "metaot.adapters.geomloss", "metaot.adapters.flash_sinkhorn", "metaot.adapters.flow_matching",
)  # fmt: skip
"""Those without `__all__`: what they define is public."""

REFERENCE = Path(__file__).parents[1] / "api"
_DIRECTIVE = re.compile(r"^\.\. (auto\w+|currentmodule):: ([\w.]+)", re.MULTILINE)


@cache
def public() -> dict[str, Any]:
    """Return every public name, in full, and what it is."""
    names: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        names |= {f"{package}.{name}": getattr(module, name) for name in module.__all__}
    for module_name in MODULES:
        names |= {f"{module_name}.{name}": value for name, value in own(importlib.import_module(module_name))}
    return names


def own(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the functions and classes that a module defines."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


@cache
def entries() -> frozenset[str]:
    """Return the full names that the pages of the reference document."""
    found: set[str] = set()
    for page in REFERENCE.glob("*.md"):
        module = ""
        for directive, name in _DIRECTIVE.findall(page.read_text()):
            if directive == "currentmodule":
                module = name
            elif directive == "automodule":
                found |= {f"{name}.{each}" for each, _ in own(importlib.import_module(name))}
            else:
                found.add(name if name.startswith("metaot.") else f"{module}.{name}")
    return frozenset(found)


@cache
def links() -> dict[str, str]:
    """Return the documented name for what a docstring calls it: in full, or a last part that is no plain word."""
    short = {name.rsplit(".", 1)[1]: name for name in sorted(entries(), key=len, reverse=True)}
    plain = {last for last in short if last.islower() and "_" not in last and last not in metaot.__all__}
    return {last: name for last, name in short.items() if last not in plain} | {name: name for name in entries()}


@cache
def public_name(source: str) -> str | None:
    """Return the documented name of what a source module calls so, or of a name without its module."""
    if source in entries():
        return source
    *_, last = source.split(".")
    same = sorted((name for name in entries() if name.endswith(f".{last}")), key=len)
    if "." not in source or len(same) == 1:
        return same[0] if same else None
    module, name = source.rsplit(".", 1)
    try:
        value = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return next((each for each in same if public().get(each) is value), None)


def exists(source: str) -> bool:
    """Return whether a source module has something of that name, such as a type variable or a solver's state."""
    module, _, name = source.rpartition(".")
    if not module:
        return any(hasattr(each, name) for key, each in sys.modules.items() if key.startswith("metaot."))
    return module.startswith("metaot.") and hasattr(importlib.import_module(module), name)
