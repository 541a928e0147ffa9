"""A network as the potential of a population: trained on the gradients that transport asks for."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metaot.arrays import ArrayLike, described
from metaot.geometry.checks import require_cloud, tensor
from metaot.inverse.network import descend
from metaot.inverse.snapshots import Move
from metaot.models.population import PotentialNetwork

_BATCH, _RATE = 512, 1e-2
"""Points of a gradient step, and the learning rate."""


@final
@dataclass(frozen=True)
class NetworkFeature:
    """A trained network as a feature: evaluated in its own dtype."""

    network: nn.Module

    def __call__(self, x: Float[Tensor, "k d"]) -> Tensor:
        """Return the network's values."""
        return self.network(x.to(next(self.network.parameters()).dtype)).to(x)


def gradient_loss(
    network: nn.Module,
    old: Float[Tensor, "k d"],
    new: Float[Tensor, "k d"],
    force: Float[Tensor, "k d"],
    share: float,
) -> Float[Tensor, ""]:
    """Return the mean of |(1 - share) grad V(old) + share grad V(new) - force|^2 / 2, differentiable in V."""
    wanted = [(part, at) for part, at in ((1 - share, old), (share, new)) if part > 0]
    with torch.enable_grad():
        total = torch.zeros_like(force)
        for part, at in wanted:
            points = at.detach().requires_grad_()
            total = total + part * torch.autograd.grad(network(points).sum(), points, create_graph=True)[0]
        return 0.5 * (total - force).square().sum(1).mean()


def trained(network: object, moves: Sequence[Move], share: float, steps: int) -> NetworkFeature:
    """Return a copy of a network, k d -> k or k p, trained on all moves up to a factor."""
    if not isinstance(network, nn.Module) or not any(True for _ in network.parameters()):
        raise TypeError(
            f"network must be a torch.nn.Module from points, k d, to k numbers, got {described(network)}"
        )
    own = copy.deepcopy(network).requires_grad_()
    like = next(own.parameters())
    old, new, force = (
        torch.cat(parts).to(like) for parts in zip(*((m.old, m.new, m.force) for m in moves), strict=True)
    )
    force = force / force.square().mean().sqrt().clamp_min(torch.finfo(force.dtype).tiny)
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        rows = torch.randint(len(old), (min(_BATCH, len(old)),), generator=generator).to(old.device)
        return gradient_loss(own, old[rows], new[rows], force[rows], share)

    descend(own, loss, steps, _RATE)
    return NetworkFeature(own.eval().requires_grad_(False))


@final
class NetworkPotential:
    """A network, k d -> k, as the potential of a population: what a recipe trains, and `metaot.load` returns."""

    def __init__(self, model: PotentialNetwork) -> None:
        self.model = model

    @property
    def dim(self) -> int:
        """The dimension of the points."""
        return self.model.dim

    @torch.no_grad()
    def potential(self, x: ArrayLike) -> Float[Tensor, "k"]:
        """Return V at points, k d, in the dtype of the network."""
        return self.model(self._points(x))

    def drift(self, x: ArrayLike) -> Float[Tensor, "k d"]:
        """Return the velocity at points, k d: minus the gradient of V."""
        with torch.enable_grad():
            points = self._points(x).requires_grad_()
            return -torch.autograd.grad(self.model(points).sum(), points)[0]

    def _points(self, x: ArrayLike) -> Float[Tensor, "k d"]:
        like = self.model.shift
        points = tensor("x", x, taken="points (a tensor, an array or a list), k d").detach().to(like)
        require_cloud("x", points, self.dim)
        return points

    def __repr__(self) -> str:
        return f"NetworkPotential of populations in dimension {self.dim}"
