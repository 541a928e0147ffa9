"""What was learned of a moving population: its potential, its interaction, and how sure that is."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.arrays import ArrayLike
from metaot.geometry.checks import require_cloud, tensor
from metaot.inverse.estimate import Certificate, certificate
from metaot.inverse.matching import Energy
from metaot.inverse.penalties import Penalty
from metaot.inverse.quadratic import Quadratic
from metaot.inverse.snapshots import Move

_OPTIMAL = 1e-7
"""The optimality, relative to the slope of the loss at zero, at which a minimum counts as found."""


@final
@dataclass(frozen=True)
class PopulationPotential:
    """The potential V, and perhaps an interaction W, behind a population that moves.

    `theta` has the coefficients of the features of V, d d where these are all products; `interaction_theta` those
    of W. `loss` is what was minimised, without the penalty; `residual` how far the penalised problem is from
    optimal, relative to the slope of the loss at zero; `ridge` the one that was added; `moves` what transport
    found; `steps` the solver's steps in all.
    """

    theta: Float[Tensor, "..."]
    interaction_theta: Float[Tensor, "q"] | None
    energy: Energy
    dim: int
    moves: tuple[Move, ...]
    model: Quadratic
    penalty: Penalty | None
    ridge: float
    residual: float
    steps: int
    times: int

    @property
    def converged(self) -> bool:
        """Whether all transport problems and the parameters have converged."""
        solutions = [each for move in self.moves for each in move.solutions]
        return self.residual <= _OPTIMAL and all(bool(each.converged) for each in solutions)

    @property
    def loss(self) -> Float[Tensor, ""]:
        """The loss at the minimum."""
        return self.model.value(self._all)

    @property
    def _all(self) -> Float[Tensor, "p"]:
        own = self.theta.flatten()
        return own if self.interaction_theta is None else torch.cat([own, self.interaction_theta])

    @cached_property
    def certificate(self) -> Certificate | None:
        """The certificate of the penalty at this estimate; None without a penalty."""
        return None if self.penalty is None else self.certificate_at(self.theta)

    def certificate_at(self, theta: ArrayLike) -> Certificate:
        """Return the certificate at any theta, such as the truth, for the same populations; it needs a penalty."""
        if self.penalty is None:
            raise ValueError("a certificate belongs to a penalty: give penalty=L1(lam) or Nuclear(lam)")
        at = tensor("theta", theta, like=self.model.h).to(self.model.h)
        if at.shape != self.theta.shape:
            raise ValueError(f"theta must have the shape {tuple(self.theta.shape)}, got {tuple(at.shape)}")
        return certificate(self.penalty, at, self.model.H)

    def potential(self, x: ArrayLike) -> Float[Tensor, "k"]:
        """Return V at points, k d."""
        return self.energy.potential(self._points("x", x)) @ self.theta.flatten()

    def drift(self, x: ArrayLike, population: ArrayLike | None = None) -> Float[Tensor, "k d"]:
        """Return the velocity at points, k d: minus the gradient of V, and of W in a `population`, n d.

        By default that is the last snapshot.
        """
        points = self._points("x", x)
        others = points if population is None else self._points("population", population)
        if population is None and self.interaction_theta is not None:
            others = self.moves[-1].y
        rows = points.split(max(1, 2**22 // (len(self._all) * points.shape[1])))
        return -torch.cat([self.energy.slopes(part, others) @ self._all for part in rows])

    def interaction(self, z: ArrayLike) -> Float[Tensor, "k"]:
        """Return W at differences of positions, k d; ValueError where none was asked for."""
        if self.energy.interaction is None or self.interaction_theta is None:
            raise ValueError("no interaction was learned: give interaction=features of differences of positions")
        return self.energy.interaction(self._points("z", z)) @ self.interaction_theta

    def _points(self, name: str, points: ArrayLike) -> Float[Tensor, "k d"]:
        like = self.model.h
        found = tensor(name, points, like=like, taken="points (a tensor, an array or a list), k d").to(like)
        require_cloud(name, found, self.dim)
        return found

    def __repr__(self) -> str:
        what = f"{self.theta.numel()} features of V"
        if self.interaction_theta is not None:
            what += f" and {len(self.interaction_theta)} of W"
        done = "converged" if self.converged else f"not converged (residual {self.residual:.0e})"
        return f"PopulationPotential of {what}, from {self.times} snapshots: {done}"
