"""The universal model as one ONNX file: for images of any size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from metaot.amortize.universal import UniversalPotential
from metaot.data.drawings import drawn_images
from metaot.data.images import as_weights
from metaot.geometry import Grid
from metaot.onnx.export import INPUTS, OUTPUTS, finished, write
from metaot.onnx.graph.images import UniversalPrediction
from metaot.onnx.runtime import FORMAT, OnnxModel
from metaot.onnx.trace import either, traced
from metaot.problem import Problem

TOLERANCE = 1e-5
"""How far potentials may be from torch's, as a share of the range of each."""
_SIZES = ((1, 28, 28), (2, 16, 16), (3, 40, 25), (2, 64, 64))
"""Batches of images in which the file is compared with torch."""


@final
@dataclass(frozen=True)
class ImageParity:
    """The largest difference of a potential as a share of its range."""

    difference: float
    problems: int

    @property
    def holds(self) -> bool:
        """Whether the file agrees with torch."""
        return self.difference <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"potentials differ from torch by {self.difference:.1e} of their range ({self.problems} drawn pairs)"
        )


def export_universal(
    predictor: UniversalPotential, card: dict[str, Any], path: Path, *, version: str
) -> Iterator[str]:
    """Write the file of a model, or nothing if the two differ; yield words on what was done."""
    content = universal_model(predictor, card, version)
    result = image_parity(OnnxModel.from_bytes(content, f"{path} (not yet written)"), predictor)
    if not result.holds:
        raise ValueError(f"nothing was written to {path}: {result}")
    write(path, content)
    yield f"{path}: {len(content) / 1e6:.1f} MB, {result}"


def universal_model(predictor: UniversalPotential, card: dict[str, Any], version: str) -> bytes:
    """Return the content of a file that predicts images (a, b, eps) -> (f, g), batch height width."""
    batch, height, width = (torch.export.Dim(name, min=2, max=2**15) for name in ("batch", "height", "width"))
    a, b = torch.full((2, 3, 5, 6), 1 / 30, dtype=torch.float64)
    eps = torch.full((1,), predictor.eps[1], dtype=torch.float64)
    images = {0: batch, 1: height, 2: width}
    examples, shapes = (a, b, eps.expand(3).clone()), (images, images, {0: batch})
    plain, exact = (
        traced(UniversalPrediction(predictor.model, exact=exact), examples, shapes, inputs=INPUTS, outputs=outputs)
        for exact, outputs in ((False, [*OUTPUTS, "right"]), (True, OUTPUTS))
    )
    proto = either(plain, exact, OUTPUTS)
    for value in proto.graph.input:
        if value.name == "eps":
            value.type.tensor_type.shape.dim[0].dim_param = "temperatures"
    metadata = {
        "metaot": {"format": FORMAT, "version": version, "torch": torch.__version__},
        "model": card["model"],
        "passes": predictor.passes,
        "recipe": card.get("recipe"),
        "data": (card.get("recipe") or {}).get("data"),
        "images": {"cost": "sqeuclidean", "square": [0, 1], "step": card.get("step")},
        "eps": list(predictor.eps),
        "quality": {key: card[key] for key in ("validation", "test") if key in card},
    }
    return finished(proto, metadata)


@torch.no_grad()
def image_parity(model: OnnxModel, predictor: UniversalPotential) -> ImageParity:
    """Compare the file with the model, in sizes that were not traced, at temperatures of the whole range."""
    generator = torch.Generator().manual_seed(4)
    low, high = predictor.eps
    worst = 0.0
    for batch, height, width in _SIZES:
        images = drawn_images(2 * batch, max(height, width), generator)[:, :height, :width] + 1e-6
        a, b = as_weights(images.double()).split(batch)
        eps = low * (high / low) ** torch.rand(batch, generator=generator, dtype=torch.float64)
        expected = predictor.predict(Problem(a, b, Grid(height, width), eps))
        shape = (batch, height, width)
        found = model.predict(a.numpy().reshape(shape), b.numpy().reshape(shape), eps=eps.numpy())
        for mine, theirs in ((expected.f, found.f), (expected.g, found.g)):
            worst = max(worst, _difference(mine, theirs.reshape(batch, -1)))
    return ImageParity(worst, sum(batch for batch, *_ in _SIZES))


def _difference(expected: torch.Tensor, found: np.ndarray) -> float:
    size = expected.amax(-1) - expected.amin(-1)
    worst = ((expected - torch.from_numpy(found)).abs().amax(-1) / size.clamp_min(1e-12)).max()
    return float(worst.nan_to_num(torch.inf))
