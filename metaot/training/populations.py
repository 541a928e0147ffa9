"""What is learned of a moving population: a network as its potential, from snapshots."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from metaot.brenier.problem import Batched
from metaot.data import SnapshotSet
from metaot.inverse.potential_network import NetworkPotential, gradient_loss
from metaot.inverse.snapshots import Move, Transport
from metaot.models import single
from metaot.models.population import PotentialNetwork
from metaot.training.recipe import Recipe, Task

_ARROWS = 16
"""Arrows along each axis of a picture."""


@final
@dataclass(frozen=True)
class Matched(Batched):
    """Positions that became others, and what the gradient must be."""

    old: Float[Tensor, "k d"]
    new: Float[Tensor, "k d"]
    force: Float[Tensor, "k d"]

    @property
    def batch_shape(self) -> torch.Size:
        return self.old.shape[:1]


@final
class PopulationTask(Task):
    """The potential behind snapshots, which are matched once by transport (arXiv 2406.12616, 2505.07124)."""

    def __init__(self, recipe: Recipe, data_dir: Path | None, device: torch.device) -> None:
        like = torch.zeros((), dtype=torch.float32, device=device)
        super().__init__(recipe, data_dir, like, SnapshotSet, "a potential from snapshots")
        self.share = self.problems.new
        transport = Transport(self.problems.eps or None, self.share >= 0.5)
        self.train, self.validation = (
            _together(transport.moves(part.clouds, [part.tau] * (len(part.clouds) - 1)))
            for part in (self.problems, self.held_out)
        )
        self.validation = self.validation.to(like)

    def new_model(self) -> PotentialNetwork:
        dim = self.train.old.shape[1]
        model: PotentialNetwork = single(self.recipe.model(dim, **self.recipe.model_settings))
        model.standardise(self.train.new.float(), self.train.force.float())
        return model

    def predictor(self, model: PotentialNetwork) -> NetworkPotential:
        return NetworkPotential(model)

    def drawn(self, step: int) -> Matched:
        rows = torch.randint(len(self.train.old), (self.problems.batch,), generator=self.generator(step))
        return self.train[rows]

    def loss(self, predictor: NetworkPotential, problem: Matched) -> Tensor:
        size = predictor.model.steepness.square()
        return gradient_loss(predictor.model, problem.old, problem.new, problem.force, self.share) / size

    def measure(self, predictor: NetworkPotential) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return which part of the mean square of velocities is not explained, on points that were held out."""
        held = self.validation
        off = 2 * gradient_loss(predictor.model, held.old, held.new, held.force, self.share).detach()
        figures = {"unexplained": float(off / held.force.square().sum(1).mean())}
        if predictor.dim != 2 or find_spec("matplotlib") is None:
            return figures, {}
        return figures, {"drift": torch.from_numpy(_arrows(predictor, held))}


def _together(moves: list[Move]) -> Matched:
    parts = zip(*((move.old, move.new, move.force) for move in moves), strict=True)
    return Matched(*(torch.cat(part) for part in parts))


def _arrows(predictor: NetworkPotential, held: Matched) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the held-out points before a step, with the learned drift as arrows on a grid around them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415, an extra
    from matplotlib.figure import Figure  # noqa: PLC0415, the same

    points = held.old.cpu()
    low, high = points.amin(0).tolist(), points.amax(0).tolist()
    axes = [torch.linspace(start, end, _ARROWS) for start, end in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    arrows = predictor.drift(grid).cpu()
    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    panel = figure.subplots()
    panel.scatter(*points.numpy().T, s=3, color="#9a9a9a")
    panel.quiver(*grid.numpy().T, *arrows.numpy().T, angles="xy", color="#2060a0")
    panel.set(xticks=[], yticks=[])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
