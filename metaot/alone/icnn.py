"""Gradients of input-convex networks in numpy, many points at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import numpy as np

from metaot.alone.frame import FrameAlone

Array = np.ndarray
Function = Callable[[Array], Array]

FLOOR = 0.05
"""The least coefficient of |u|^2 / 2."""


def sections(dim: int, hidden: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes in a weight vector: W and b of every layer, the U between them, then c, w and q."""
    layers = [shape for h in hidden for shape in ((h, dim), (h,))]
    between = [(after, before) for before, after in pairwise(hidden)]
    return [*layers, *between, (hidden[-1],), (dim,), (1,)]


def softplus(t: Array) -> Array:
    return np.logaddexp(0, t)


def _squareplus(t: Array) -> Array:
    return 0.5 * (t + np.sqrt(t * t + 1))


def _squareplus_slope(t: Array) -> Array:
    slope = t * t
    slope += 1
    np.sqrt(slope, out=slope)
    np.divide(t, slope, out=slope)
    slope += 1
    slope *= 0.5
    return slope


def _sigmoid(t: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * t)


def _leaky(t: Array) -> Array:
    return np.maximum(t, 0.2 * t)


def _leaky_slope(t: Array) -> Array:
    return np.where(t > 0, 1.0, 0.2).astype(t.dtype)


ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "squareplus": (_squareplus, _squareplus_slope),
    "softplus": (softplus, _sigmoid),
    "leaky_relu": (_leaky, _leaky_slope),
}
"""The functions and their slopes: those of `metaot.brenier.activations`."""


@final
@dataclass(frozen=True)
class IcnnAlone:
    r"""The gradient of an `Icnn` with one weight vector; in a frame that of $\langle n, x \rangle + s \, \Phi(u)$.

    $t_1 = W_1 z + b_1$, $t_{l+1} = U_l \sigma(t_l) + W_{l+1} z + b_{l+1}$ with z = x - m, and the gradient is
    $Q z + w + \sum_l R_l^T (e_l \sigma'(t_l))$ with the sensitivities e, the last of which is c.
    """

    W: list[Array]
    b: list[Array]
    U: list[Array]
    c: Array
    w: Array
    Q: Array
    R: list[Array]
    m: Array | float
    activation: str

    @classmethod
    def of(cls, hidden: Sequence[int], activation: str, weights: Array, dim: int) -> "IcnnAlone":
        """Cut a weight vector into its matrices."""
        shapes, depth = sections(dim, hidden), len(hidden)
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        parts = [part.reshape(shape) for part, shape in zip(np.split(weights, ends[:-1]), shapes, strict=True)]
        W = parts[0 : 2 * depth : 2]
        U = [softplus(part) / part.shape[-1] for part in parts[2 * depth : -3]]
        Q = (FLOOR + softplus(parts[-1])) * np.eye(dim, dtype=weights.dtype)
        c = softplus(parts[-3]) / hidden[-1]
        return cls(W, parts[1 : 2 * depth : 2], U, c, parts[-2], Q, W, 0.0, activation)

    def within(self, frame: FrameAlone) -> "IcnnAlone":
        """Return the gradient on the space itself, with the frame multiplied out."""
        W = [part @ frame.U for part in self.W]
        return replace(
            self,
            m=_single(frame.m),
            W=[_single(part) for part in W],
            R=[_single(frame.scale * part) for part in W],
            w=_single(frame.n + frame.scale * (self.w @ frame.U)),
            Q=_single(frame.scale * frame.U.T @ self.Q @ frame.U),
        )

    def __call__(self, x: Array) -> Array:
        """Return the gradient at points x, float32, k d."""
        value, slope = ACTIVATIONS[self.activation]
        z, layers = x - self.m, []
        for k, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            t = z @ W.T
            t += b
            if k:
                t += value(layers[-1]) @ self.U[k - 1].T
            layers.append(t)
        total, e = z @ self.Q.T + self.w, self.c
        for k in reversed(range(len(layers))):
            bent = slope(layers[k])
            bent *= e
            total += bent @ self.R[k]
            if k:
                e = bent @ self.U[k - 1]
        return total


def _single(part: Array) -> Array:
    return part.astype(np.float32)
