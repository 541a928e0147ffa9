"""How well a potential moves a population from one held-out snapshot to the next."""

import textwrap
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data import SnapshotSet
from metaot.evaluation.report import WIDTH, markdown, plain
from metaot.inverse.potential_network import NetworkPotential, gradient_loss
from metaot.inverse.snapshots import Transport

_ROUNDS = 50
"""How often the gradient at the new positions is taken anew."""


@final
@dataclass(frozen=True)
class PopulationReport:
    """How far predictions are from the next snapshot, for each step.

    `unexplained` is the share of the mean square of velocities between matched points that minus the gradient of V
    does not explain; `distance` is W_2 from the predicted points to the next snapshot, `rest` from the old points.
    """

    data: str
    tau: float
    points: tuple[int, ...]
    unexplained: Float[Tensor, "steps"]
    distance: Float[Tensor, "steps"]
    rest: Float[Tensor, "steps"]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts."""
        found: dict[str, Any] = plain(self)
        return found

    def summary(self) -> dict[str, Any]:
        """Return the figures for a checkpoint's card."""
        means = {name: getattr(self, name).mean() for name in ("unexplained", "distance", "rest")}
        return {"data": self.data, "points": sum(self.points), **plain(means)}

    def table(self) -> str:
        """Return the table in Markdown."""
        head = (
            f"Test points of {self.data}, {len(self.points)} snapshots {self.tau:g} apart, of {min(self.points)} "
            "points or more. Unexplained is the share of the mean square of velocities between matched points "
            "that the learned drift does not explain. One step is the distance W_2 from where it brings points to "
            "the next snapshot; at rest, from where they are: independent samples of one population have one too."
        )
        columns = zip(self.unexplained, self.distance, self.rest, strict=True)
        rows = [[f"{k} to {k + 1}", *(f"{value:.4f}" for value in values)] for k, values in enumerate(columns)]
        means = [each.mean() for each in (self.unexplained, self.distance, self.rest)]
        rows.append(["mean", *(f"{value:.4f}" for value in means)])
        table = markdown(["snapshots", "unexplained", "one step", "at rest"], rows)
        return "\n\n".join([textwrap.fill(head, WIDTH), "\n".join(table)])


def evaluate_population(predictor: NetworkPotential, snapshots: SnapshotSet, data: str) -> PopulationReport:
    """Measure a potential on snapshots that it was not trained on."""
    clouds, taus = snapshots.clouds, [snapshots.tau] * (len(snapshots.clouds) - 1)
    moves = Transport(snapshots.eps or None, snapshots.new >= 0.5).moves(clouds, taus)
    unexplained, distance, rest = [], [], []
    for move in moves:
        old, new, force = (part.to(predictor.model.shift) for part in (move.old, move.new, move.force))
        off = 2 * gradient_loss(predictor.model, old, new, force, snapshots.new).detach()
        unexplained.append(off / move.force.square().sum(1).mean())
        distance.append(_distance(_moved(predictor, move.x, snapshots), move.y))
        rest.append(_distance(move.x, move.y))
    figures = (torch.stack(each).double().cpu() for each in (unexplained, distance, rest))
    return PopulationReport(data, snapshots.tau, tuple(map(len, clouds)), *figures)


def _moved(predictor: NetworkPotential, x: Float[Tensor, "n d"], snapshots: SnapshotSet) -> Float[Tensor, "n d"]:
    """Return where points are after a step, with the share of the gradient at new positions that was trained."""
    new, tau = snapshots.new, snapshots.tau
    y, old = x, (1 - new) * predictor.drift(x).to(x)
    for _ in range(_ROUNDS if new else 1):
        y = x + tau * (old + new * predictor.drift(y).to(x))
    return y


def _distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Return W_2 between clouds."""
    (move,) = Transport(None).moves([x, y], [1.0])
    return (move.old - move.new).square().sum(1).mean().sqrt()
