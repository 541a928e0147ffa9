"""Input-convex networks (Amos et al., arXiv 1609.07152) evaluated from a batch of weight vectors.

Value, gradient and Hessian are closed forms of matrix products: nothing is differentiated when running, so that
they export. Each instance of a batch has weights of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import leaky_relu, softplus

Weights = Float[Tensor, "*batch count"]
Points = Float[Tensor, "*batch n d"]

FLOOR = 0.05
"""The least coefficient of |u|^2 / 2."""
FAINT = -2.0
"""The positive weights of a new network before softplus: the network is nearly its quadratic term."""
_VANISHING = -40.0
"""Below it, softplus of a weight and its derivative are rounded away beside others."""


@final
@dataclass(frozen=True)
class Activation:
    """A convex, nondecreasing function of one variable with its first two derivatives."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


ACTIVATIONS = {
    "squareplus": Activation(
        value=lambda t: 0.5 * (t + (t * t + 1).sqrt()),
        slope=lambda t: 0.5 * (1 + t / (t * t + 1).sqrt()),
        bend=lambda t: 0.5 * (t * t + 1).rsqrt() ** 3,
    ),
    "softplus": Activation(
        value=softplus, slope=torch.sigmoid, bend=lambda t: torch.sigmoid(t) * (1 - torch.sigmoid(t))
    ),
    "leaky_relu": Activation(
        value=lambda t: leaky_relu(t, 0.2),
        slope=lambda t: torch.where(t > 0, 1.0, 0.2).to(t),
        bend=torch.zeros_like,
    ),
}
"""Squareplus (Barron, arXiv 2112.11687) is as smooth as softplus, and cheaper. With leaky ReLU, as in Meta OT, the
maps are piecewise affine and jump between the pieces."""


@final
@dataclass(frozen=True)
class Icnn:
    r"""The architecture of convex functions of u in R^dim; `count` is the length of a weight vector.

    $t_1 = W_1 u + b_1$, $t_{l+1} = U_l \sigma(t_l) + W_{l+1} u + b_{l+1}$ and
    $\Phi(u) = c \cdot \sigma(t_L) + w \cdot u + \frac{q}{2} |u|^2$ with $U_l, c, q > 0$: convex for any
    weight vector. Positive entries are softplus(.) / fan-in of the vector's entries; q is at least `floor`: the
    gradient is invertible.
    """

    dim: int
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "squareplus"
    floor: float = FLOOR

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.dim < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"dim and hidden sizes must be at least 1, got {self.dim} and {self.hidden}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {sorted(ACTIVATIONS)}, got {self.activation!r}")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, got {self.floor}")

    @property
    def sections(self) -> list[tuple[int, ...]]:
        """The shapes in a weight vector: W and b of every layer, the U between them, then c, w and q."""
        layers = [shape for h in self.hidden for shape in ((h, self.dim), (h,))]
        between = [(after, before) for before, after in pairwise(self.hidden)]
        return [*layers, *between, (self.hidden[-1],), (self.dim,), (1,)]

    @property
    def count(self) -> int:
        """The length of a weight vector."""
        return sum(map(math.prod, self.sections))

    def weights(self, generator: torch.Generator, *batch: int) -> Float[Tensor, "*batch count"]:
        """Return weights of new networks, float32: |u|^2 / 2 and faint random ridges."""
        depth, parts = len(self.hidden), []
        moments = [(0.0, 1.5)] * 2 * depth + [(FAINT, 0.1)] * depth + [(0.0, 0.0)] * 2
        for (mean, deviation), shape in zip(moments, self.sections, strict=True):
            noise = torch.randn(*batch, *shape, generator=generator, dtype=torch.float32)
            parts.append((mean + deviation * noise).reshape(*batch, -1))
        parts[-1] = torch.full_like(parts[-1], math.log(math.expm1(1 - self.floor)))
        return torch.cat(parts, -1)

    def quadratic(self) -> Float[Tensor, "count"]:
        """Return the weights of |u|^2 / 2, without ridges, which training could not bring back."""
        weights = self.weights(torch.Generator())
        weights[self._coefficients] = -100.0
        return weights

    def is_quadratic(self, weights: Weights) -> Bool[Tensor, "*batch"]:
        """Return whether networks have no ridges, as after `quadratic`: their gradients are linear."""
        return (weights[..., self._coefficients] < _VANISHING).all(-1)

    @property
    def _coefficients(self) -> slice:
        """Where c is in a weight vector."""
        end = 1 + self.dim
        return slice(-(end + self.hidden[-1]), -end)

    def value(self, weights: Weights, u: Points) -> Float[Tensor, "*batch n"]:
        """Return the function at each u."""
        at = _Evaluation(self, weights, u)
        quadratic = 0.5 * at.q * u + at.w
        return (at.sigma.value(at.t[-1]) * at.c).sum(-1) + (quadratic * u).sum(-1)

    def gradient(self, weights: Weights, u: Points) -> Points:
        """Return the gradient at each u."""
        at = _Evaluation(self, weights, u)
        return at.gradient(at.sensitivities())

    def gradient_and_hessian(self, weights: Weights, u: Points) -> tuple[Points, Float[Tensor, "*batch n d d"]]:
        """Return the gradient and the matrix of second derivatives at each u."""
        at = _Evaluation(self, weights, u)
        e = at.sensitivities()
        return at.gradient(e), at.hessian(e)


class _Evaluation:
    """Networks at points u: a weight vector, cut into its matrices, and t of every layer."""

    def __init__(self, icnn: Icnn, weights: Tensor, u: Tensor) -> None:
        if weights.shape[-1] != icnn.count:
            raise ValueError(f"{icnn} has {icnn.count} weights, got a vector of {weights.shape[-1]}")
        shapes, depth = icnn.sections, len(icnn.hidden)
        pieces = weights.split([math.prod(shape) for shape in shapes], -1)
        parts = [piece.unflatten(-1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
        self.W = parts[0 : 2 * depth : 2]
        self.U = [softplus(part) / part.shape[-1] for part in parts[2 * depth : -3]]
        self.c = (softplus(parts[-3]) / icnn.hidden[-1])[..., None, :]
        self.w = parts[-2][..., None, :]
        self.q = icnn.floor + softplus(parts[-1])[..., None]
        self.sigma, self.u = ACTIVATIONS[icnn.activation], u
        self.t = [u @ W.mT + b[..., None, :] for W, b in zip(self.W, parts[1 : 2 * depth : 2], strict=True)]
        for k, U in enumerate(self.U):
            self.t[k + 1] = self.t[k + 1] + self.sigma.value(self.t[k]) @ U.mT

    def sensitivities(self) -> list[Tensor]:
        """Return the derivative of the value in the activation of every layer, before its slope."""
        e = [self.c]
        for k in reversed(range(len(self.U))):
            e.insert(0, (e[0] * self.sigma.slope(self.t[k + 1])) @ self.U[k])
        return e

    def gradient(self, e: list[Tensor]) -> Tensor:
        total = self.q * self.u + self.w
        for part, layer, W in zip(e, self.t, self.W, strict=True):
            total = total + (part * self.sigma.slope(layer)) @ W
        return total

    def hessian(self, e: list[Tensor]) -> Tensor:
        W, t = self.W[0], self.t
        d = W.shape[-1]
        squares = (W[..., :, :, None] * W[..., :, None, :]).flatten(-2)
        H = ((e[0] * self.sigma.bend(t[0])) @ squares).unflatten(-1, (d, d))
        H = H + self.q[..., None] * torch.eye(d).to(H)
        jacobian = W[..., None, :, :]
        for k, U in enumerate(self.U):
            inner = self.sigma.slope(t[k])[..., None] * jacobian
            jacobian = U[..., None, :, :] @ inner + self.W[k + 1][..., None, :, :]
            bend = (e[k + 1] * self.sigma.bend(t[k + 1]))[..., None]
            H = H + jacobian.mT @ (bend * jacobian)
        return H
