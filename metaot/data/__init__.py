"""Distributions of problems: images on grids, the user's arrays, and palettes and planted pairs for maps."""

from typing import Any

from metaot.data.base import ProblemSet, SampleSet, Source, Split, middle
from metaot.data.drawings import Drawings, Shapes
from metaot.data.images import ImagePairs, Mnist
from metaot.data.paintings import Paintings
from metaot.data.palettes import Palettes
from metaot.data.planted import Planted
from metaot.data.problems import ProblemFolder, write_problems
from metaot.data.sphere import Deliveries, Sphere

_ALL = (Mnist, Shapes, Drawings, ProblemFolder, Paintings, Palettes, Planted, Sphere)
SOURCES: dict[str, type[Source]] = {source.__name__: source for source in _ALL}


def source_from_json(settings: dict[str, Any]) -> Source:
    """Rebuild a source from the JSON of a recipe: the name of its class and its settings."""
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name != "kind"}
    if settings["kind"] not in SOURCES:
        raise ValueError(f"data is one of {sorted(SOURCES)}, got {settings['kind']!r}")
    return SOURCES[settings["kind"]](**values)


__all__ = [
    "SOURCES",
    "Deliveries",
    "Drawings",
    "ImagePairs",
    "Mnist",
    "Paintings",
    "Palettes",
    "Planted",
    "ProblemFolder",
    "ProblemSet",
    "SampleSet",
    "Shapes",
    "Source",
    "Sphere",
    "Split",
    "middle",
    "source_from_json",
    "write_problems",
]
