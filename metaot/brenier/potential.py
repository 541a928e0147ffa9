"""Convex potentials and the maps that are their gradients (Brenier 1991; equations 10 and 11 of Meta OT)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.brenier.frame import Frame
from metaot.brenier.icnn import Icnn


@final
@dataclass(frozen=True)
class BrenierPotential:
    r"""The convex function $\phi(x) = \langle n, x \rangle + s \, \Phi(u(x))$, $\Phi$ an ICNN in a frame."""

    icnn: Icnn
    weights: Float[Tensor, "*batch count"]
    frame: Frame

    def __call__(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k"]:
        """Return phi at points x."""
        inner = self.icnn.value(self.weights, self.frame.enter(x))
        linear = (x * self.frame.n[..., None, :]).sum(-1)
        return linear + self.frame.scale[..., None] * inner

    def gradient(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Return the gradient of phi at points x: the transport map."""
        slope = self.icnn.gradient(self.weights, self.frame.enter(x))
        return self.frame.T.outside(slope)

    def __getitem__(self, index: object) -> "BrenierPotential":
        return replace(self, weights=self.weights[index], frame=self.frame[index])  # type: ignore[index]

    def reshaped(self, batch: torch.Size) -> "BrenierPotential":
        """Return the same potentials with another batch shape."""
        weights = self.weights.reshape(*batch, self.icnn.count)
        return replace(self, weights=weights, frame=self.frame.reshaped(batch))

    def to(self, like: Tensor) -> "BrenierPotential":
        """Return the potential in the dtype and on the device of `like`."""
        return replace(self, weights=self.weights.to(like), frame=self.frame.to(like))


@final
@dataclass(frozen=True)
class BrenierPair:
    """A potential on the source's space, and one on the target's that approximates its conjugate."""

    phi: BrenierPotential
    psi: BrenierPotential

    def push(self, x: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Send points of the source to the target."""
        return self.phi.gradient(x)

    def pull(self, y: Float[Tensor, "*batch k d"]) -> Float[Tensor, "*batch k d"]:
        """Send points of the target back to the source."""
        return self.psi.gradient(y)

    @property
    def T(self) -> "BrenierPair":
        """The pair of the problem with source and target exchanged."""
        return BrenierPair(self.psi, self.phi)

    def __getitem__(self, index: object) -> "BrenierPair":
        return BrenierPair(self.phi[index], self.psi[index])

    def reshaped(self, batch: torch.Size) -> "BrenierPair":
        """Return the same pairs with another batch shape."""
        return BrenierPair(self.phi.reshaped(batch), self.psi.reshaped(batch))

    def to(self, like: Tensor) -> "BrenierPair":
        """Return the pair in the dtype and on the device of `like`."""
        return BrenierPair(self.phi.to(like), self.psi.to(like))
