"""Small models with random weights, and their files."""

import subprocess
import sys

import pytest
import torch

from metaot.amortize import AmortizedPotential
from metaot.geometry import Geometry, Grid, Points
from metaot.models import (
    GroupedPotential,
    PotentialMLP,
    PotentialModel,
    RefinedPotential,
    SpectralPotential,
    single,
)

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "datasets", "tensorboard", "onnx", "jaxtyping"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
CARD = {"model": {"kind": "test", "config": {}}, "recipe": None, "validation": {"steps_saved": 3.0}}


def randomised(model: PotentialModel, noise_size: float) -> PotentialModel:
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(3)
    for parameter in single(model).parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.data.add_(noise, alpha=noise_size)
    return model.eval().requires_grad_(False)


def predictor(name: str, noise_size: float = 0.1) -> AmortizedPotential:
    """Return a predictor with random weights: a model, a space and a range of eps."""
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first = {"moments": 4, "modes": 4, "width": 16, "hidden": 8}
    refined = {"first": first, "hidden": 8, "modes": 4}
    small = {"first": first | {"moments": 2, "modes": 2}, "hidden": 8, "modes": 2}
    spaces: dict[str, tuple[type[PotentialModel], Geometry, tuple[float, float], dict[str, object]]] = {
        "spectral": (SpectralPotential, Grid(6, 5), (2e-2, 1e-1), first),
        "refined": (RefinedPotential, Grid(6, 5), (1e-2, 1e-1), refined),
        "low": (RefinedPotential, Grid(6, 5), (1e-3, 1e-1), refined),
        "line": (RefinedPotential, Grid(11), (1e-3, 1e-2), refined),
        "cube": (RefinedPotential, Grid(4, 3, 2), (2e-2, 1e-1), small),
        "perceptron": (PotentialMLP, Points(points, points[:7] * 2, "euclidean"), (5e-2, 5e-2), {"width": 16}),
    }
    kind, geometry, eps, settings = spaces[name]
    torch.manual_seed(0)
    return AmortizedPotential(randomised(kind.for_geometry(geometry, eps, **settings), noise_size), geometry, eps)


def grouped(geometry: Geometry, eps: tuple[float, float], **settings: int) -> AmortizedPotential:
    """Return a predictor for few suppliers and many customers."""
    torch.manual_seed(0)
    model = single(GroupedPotential.for_geometry(geometry, eps, depth=1, demand=4, **settings))
    return AmortizedPotential(model.eval().requires_grad_(False), geometry, eps)


def run_without_torch(code: str, *arguments: object) -> None:
    """Run code in a process that can import neither torch nor what export needs."""
    subprocess.run([sys.executable, "-c", BLOCKED + code, *map(str, arguments)], check=True)
