"""Small models with random weights, and their files."""

import subprocess
import sys
from typing import Any, TypeVar

import pytest
import torch

from metaot import digest
from metaot.amortize import AmortizedPotential
from metaot.amortize.costs import CostPotential
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.geometry import Geometry, Grid, Points
from metaot.models import (
    GroupedPotential,
    ModalPotential,
    PotentialMLP,
    PotentialModel,
    RefinedPotential,
    SpectralPotential,
    single,
)
from metaot.models.costs import CostNetwork
from metaot.models.palette import PaletteIcnn
from metaot.models.universal import UniversalNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "datasets", "tensorboard", "onnx", "jaxtyping"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
ModelT = TypeVar("ModelT", bound=torch.nn.Module)


def randomised(model: ModelT, noise_size: float = 0.1) -> ModelT:
    """Give every parameter a value that matters."""
    generator = torch.Generator().manual_seed(3)
    for parameter in single(model).parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.data.add_(noise, alpha=noise_size)
    return model.eval().requires_grad_(False)


def predictor(name: str) -> Any:
    """Return a predictor with random weights."""
    torch.default_generator.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # as in every test: random weights depend on it
    if name == "maps":
        return AmortizedMap(randomised(PaletteIcnn(3, [6, 5], features=12, width=16, depth=1).float()))
    if name == "universal":
        network = UniversalNetwork(modes=4, width=8, hidden=6, depth=1, correction=6)
        return UniversalPotential(randomised(network, 0.03), (1e-3, 1e-1))
    if name == "costs":
        reader = randomised(CostNetwork(cells=8, rows=4), 0.05)
        reader.spreads.copy_(torch.tensor([0.01, 1e3]))
        return CostPotential(reader)
    if name == "grouped":
        x, y = (torch.rand(n, 2, generator=torch.Generator().manual_seed(1)).double() for n in (6, 30))
        return grouped(Points(x, y), (1e-2, 1e-1), groups=9, fine=20, width=8, hidden=8)
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
    small = {"modes": 4, "width": 8, "hidden": 8, "depth": 1, "correction": 6, "passes": 2}
    spaces["modal"] = ModalPotential, Points(points, points[:7] * 2, "euclidean"), (2e-2, 1e-1), small
    kind, geometry, eps, settings = spaces[name]
    return AmortizedPotential(randomised(kind.for_geometry(geometry, eps, **settings)), geometry, eps)


def grouped(geometry: Geometry, eps: tuple[float, float], **settings: int) -> AmortizedPotential:
    """Return a predictor for few suppliers and many customers."""
    torch.default_generator.manual_seed(0)
    model = GroupedPotential.for_geometry(geometry, eps, depth=1, demand=4, **settings)
    return AmortizedPotential(randomised(single(model), 0.03), geometry, eps)


def resealed(proto: Any) -> bytes:
    """Return the content of a file that was changed on purpose, with the digest of what it is now."""
    entries = [entry for entry in proto.metadata_props if entry.key != digest.KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(entries)
    return digest.sealed(proto.SerializeToString())


def run_without_torch(code: str, *arguments: object) -> None:
    """Run code in a process that can import neither torch nor what export needs."""
    subprocess.run([sys.executable, "-c", BLOCKED + code, *map(str, arguments)], check=True)
