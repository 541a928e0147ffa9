"""A model of maps as two ONNX files: the hypernetwork, and the map that is a potential's gradient."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaot.amortize.maps import AmortizedMap
from metaot.brenier import Frame, SampleProblem
from metaot.data import Palettes, Planted, SampleSet
from metaot.folders import write_atomically
from metaot.models.palette import PaletteIcnn
from metaot.onnx.graph.hypernetwork import PredictedMaps, PushedPoints
from metaot.onnx.maps import PARTS, OnnxMap, push_file
from metaot.onnx.parity import recorded_split
from metaot.onnx.trace import finished, traced

TOLERANCE = 1e-4
"""The largest distance from where torch sends a point, in standard deviations of the target."""
_SIZES = ((1, 512, 512), (2, 300, 512), (5, 512, 40))
"""Batches, and samples of x and y, in which the files are compared with torch."""


def export_maps(
    predictor: AmortizedMap,
    card: dict[str, Any],
    path: Path,
    *,
    data_dir: Path | None = None,
    weights: str | None = None,
) -> str:
    """Write both files of a model, or none if they differ from torch by too much; return words on what was done.

    `weights` is the fingerprint of the weights, for files that lie beside them.
    """
    contents = map_models(predictor, card, weights)
    problems, data = _drawn_problems(predictor.dim, card, data_dir)
    push, pull = _differences(OnnxMap.from_bytes(*contents, name=f"{path} (not yet written)"), predictor, problems)
    result = (
        f"pushed and pulled points differ from torch by {push:.0e} and {pull:.0e} of the deviation "
        f"({sum(len(problem.x) for problem in problems)} {data})"
    )
    if max(push, pull) > TOLERANCE:
        raise ValueError(f"nothing was written to {path}: {result}")
    for file, content in zip((push_file(path), path), reversed(contents), strict=True):
        write_atomically(file, lambda partial, content=content: partial.write_bytes(content))
    return f"{path}: {len(contents[0]) / 1e6:.1f} MB, and {push_file(path)}: {result}"


def map_models(predictor: AmortizedMap, card: dict[str, Any], weights: str | None = None) -> tuple[bytes, bytes]:
    """Return the contents of the files: (x, y) -> `PARTS`, and (x, weights, m, n, U, scale) -> y."""
    model = predictor.model
    if not isinstance(model, PaletteIcnn):
        raise ValueError(f"a {type(model).__name__} reads pictures; only networks that read samples are exported")
    batch, n, m = (torch.export.Dim(name, min=2, max=2**31) for name in ("batch", "n", "m"))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 7, predictor.dim, generator=generator, dtype=torch.float32)
    example, clouds = (x, y[:, :6]), ({0: batch, 1: n}, {0: batch, 1: m})
    first = traced(PredictedMaps(model), example, clouds, inputs=["x", "y"], outputs=list(PARTS))
    frame = Frame.gaussian(SampleProblem(x, y))
    potential = (x, model.icnn.weights(generator, 3), frame.m, frame.n, frame.U, frame.scale)
    names = ["x", "weights", "m", "n", "U", "scale"]
    shapes = ({0: batch, 1: n}, *[{0: batch}] * 5)
    second = traced(PushedPoints(model.icnn), potential, shapes, inputs=names, outputs=["y"])
    maps = {
        "dim": predictor.dim,
        "icnn": asdict(model.icnn),
        "step": card.get("step"),
        "seed": card.get("seed"),
        "weights": weights,
    }
    return finished(first, card, {"maps": maps}), finished(second, card, {"maps": maps})


@torch.no_grad()
def _differences(model: OnnxMap, predictor: AmortizedMap, problems: list[SampleProblem]) -> tuple[float, float]:
    """Return the largest distance of pushed and of pulled points from those of torch, in standard deviations."""
    push = pull = 0.0
    for problem in problems:
        expected, found = predictor.stages(problem)[-1], model.predict(problem.x.numpy(), problem.y.numpy())
        push = max(push, _difference(expected.push(problem.x), found.push(problem.x.numpy())))
        pull = max(pull, _difference(expected.pull(problem.y), found.pull(problem.y.numpy())))
    return push, pull


def _difference(expected: torch.Tensor, found: np.ndarray) -> float:
    deviation = expected.var(-2).sum(-1).sqrt().clamp_min(1e-12)
    worst = (expected - torch.from_numpy(found)).norm(dim=-1).amax(-1) / deviation
    return float(worst.nan_to_num(torch.inf).max())


def _drawn_problems(dim: int, card: dict[str, Any], data_dir: Path | None) -> tuple[list[SampleProblem], str]:
    """Return problems of the model's test data; of embedded data where these are missing."""
    split, data = recorded_split(card, data_dir)
    if split is None:
        source = Palettes() if dim == 3 else Planted(dim=dim)
        split, data = source.split("test"), f"test problems of {type(source).__name__}"
    assert isinstance(split, SampleSet)
    generator = torch.Generator().manual_seed(4)
    problems = []
    for batch, n, m in _SIZES:
        drawn = replace(split, batch=batch, samples=max(n, m)).sample(generator)
        problems.append(SampleProblem(drawn.x[:, :n], drawn.y[:, :m]))
    return problems, data
