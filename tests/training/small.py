"""Small recipes, with problems and networks that train in a test."""

from dataclasses import replace
from typing import Any

from metaot.data import Drawings, Palettes, Planted, Shapes, Snapshots, Sphere
from metaot.recipes import RECIPES
from metaot.training import Recipe

SMALL: dict[str, dict[str, Any]] = {
    "shapes": {
        "data": Shapes(batch=16, eps=(0.02, 0.02), side=8),
        "model_settings": {"first": {"moments": 6, "modes": 6, "width": 64}, "modes": 6, "hidden": 32},
    },
    "universal": {
        "data": Drawings(batch=12, eps=(2e-2, 1e-1), sides=(8, 10)),
        "model_settings": {"modes": 6, "width": 16, "hidden": 16, "depth": 1, "correction": 8, "passes": 1},
    },
    "palette": {
        "data": Palettes(batch=4, samples=64),
        "model_settings": {"hidden": [16], "features": 32, "width": 32, "depth": 1},
    },
    "planted": {
        "data": Planted(batch=8, samples=64, dim=2, gaussians=0.0),
        "model_settings": {"hidden": [16], "features": 64, "width": 64, "depth": 1, "passes": 0},
        "learning_rate": 5e-3,
    },
    "problems": {
        "data": Shapes(batch=16, eps=(0.02, 0.04), side=8),
        "model_settings": {"modes": 16, "width": 32, "hidden": 32, "depth": 1, "correction": 32, "unrolled": 2},
        "learning_rate": 5e-3,
    },
    "populations": {
        "data": Snapshots(batch=128, eps=0.0),
        "model_settings": {"width": 16, "depth": 1},
        "learning_rate": 1e-2,
    },
    "sphere": {
        "data": Sphere(batch=32, eps=(3e-3, 3e-3), suppliers=16, customers=600, world="synthetic"),
        "model_settings": {"groups": 64, "fine": 128, "width": 64, "hidden": 64, "depth": 1, "demand": 16},
    },
}


def tiny(name: str, steps: int, **changes: Any) -> Recipe:
    """Return a recipe by its name, made small."""
    small = replace(RECIPES[name](), **SMALL[name], steps=steps, warmup=5, average=0.9, validation_batch=8)
    return replace(small, **changes)
