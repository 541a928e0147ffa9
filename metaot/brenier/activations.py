"""Convex and nondecreasing functions of one variable, with their first two derivatives."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import leaky_relu, softplus


class Activation(ABC):
    """A convex, nondecreasing function."""

    @abstractmethod
    def value(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the function."""

    @abstractmethod
    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the first derivative, which is not negative."""

    @abstractmethod
    def bend(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the second derivative, which is not negative."""


@final
class Squareplus(Activation):
    """(t + sqrt(t^2 + 1)) / 2 (Barron, arXiv 2112.11687): as smooth as softplus, and cheaper."""

    def value(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 0.5 * (t + (t * t + 1).sqrt())

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 0.5 * (1 + t / (t * t + 1).sqrt())

    def bend(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        root = (t * t + 1).rsqrt()
        return 0.5 * root * root * root


@final
class Softplus(Activation):
    """log(1 + exp t)."""

    def value(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return softplus(t)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.sigmoid(t)

    def bend(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        slope = torch.sigmoid(t)
        return slope * (1 - slope)


@final
class LeakyRelu(Activation):
    """max(t, t/5), as in Meta OT; the maps are then affine in pieces, and jump between these."""

    def value(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return leaky_relu(t, 0.2)

    def slope(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.where(t > 0, 1.0, 0.2).to(t)

    def bend(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.zeros_like(t)


ACTIVATIONS: dict[str, Activation] = {
    "squareplus": Squareplus(),
    "softplus": Softplus(),
    "leaky_relu": LeakyRelu(),
}
