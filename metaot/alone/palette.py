"""`metaot.models.palette.PaletteIcnn` for one pair of clouds, in numpy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from metaot.alone.icnn import IcnnAlone
from metaot.alone.layers import LinearAlone, gelu, normal

Array = np.ndarray
Tensors = Mapping[str, Array]

USUAL = 3.0
"""Standard deviations up to which what a network is told is left as it is."""
_ROWS = 512
"""Samples whose features fit into a processor's cache."""


@final
class PaletteAlone:
    """The network: clouds u and v in the coordinates of a frame -> the weights of phi and of psi, float32."""

    def __init__(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        """Take what the model's constructor takes, and its tensors by name; they are not copied."""
        self.hidden, self.activation, self.dim = config["hidden"], config["activation"], config["dim"]
        depth, passes = config.get("depth", 2), config.get("passes", 1)
        self.base = tensors["base"]
        self.encoder = _Encoder.of(tensors)
        self.first = _Head.of("first", depth, tensors)
        self.corrections = [_Head.of(f"corrections.{k}", depth, tensors) for k in range(passes)]

    def __call__(self, u: Array, v: Array) -> Array:
        """Return both weight vectors, 2 count."""
        with np.errstate(over="ignore"):  # of gelu, where it is zero
            return self._weights(u, v)

    def _weights(self, u: Array, v: Array) -> Array:
        source, target = self.encoder(u), self.encoder(v)
        told = _both(source, target)
        weights = self.first(told)
        weights += self.base
        for head in self.corrections:
            at_target = self.encoder(self.potential(weights[0])(u)) - target
            at_source = self.encoder(self.potential(weights[1])(v)) - source
            weights += head(np.concatenate((told, _both(at_target, at_source)), 1))
        return weights

    def potential(self, weights: Array) -> IcnnAlone:
        """Return the gradient of the network with these weights."""
        return IcnnAlone.of(self.hidden, self.activation, weights, self.dim)


def _both(forth: Array, back: Array) -> Array:
    return np.concatenate((forth, back, back, forth)).reshape(2, -1)


@final
@dataclass(frozen=True)
class _Encoder:
    """`RidgeMeans`."""

    directions: Array
    places: Array
    mean: Array
    scale: Array

    @classmethod
    def of(cls, tensors: Tensors) -> "_Encoder":
        return cls(*(tensors[f"encoder.{name}"] for name in ("directions", "places", "mean", "scale")))

    def __call__(self, u: Array) -> Array:
        total = np.zeros_like(self.mean)
        for start in range(0, len(u), _ROWS):
            t = u[start : start + _ROWS] @ self.directions.T
            t -= self.places
            t *= t
            t += 1
            np.sqrt(t, out=t)
            total += np.ones(len(t), dtype=np.float32) @ t
        total /= len(u)
        total -= self.mean
        total *= self.scale
        return total


@final
@dataclass(frozen=True)
class _Head:
    """`WeightHead`."""

    enter: LinearAlone
    blocks: list["_Block"]
    leave: LinearAlone

    @classmethod
    def of(cls, name: str, depth: int, tensors: Tensors) -> "_Head":
        blocks = [_Block.of(f"{name}.blocks.{k}", tensors) for k in range(depth)]
        return cls(_linear(f"{name}.enter", tensors), blocks, _linear(f"{name}.leave", tensors))

    def __call__(self, told: Array) -> Array:
        size = np.sqrt(1 + np.square(told).mean(-1, keepdims=True) / np.float32(USUAL**2))
        z = self.enter(told / size)
        for block in self.blocks:
            z += block(z)
        return self.leave(_gelu(z))


@final
@dataclass(frozen=True)
class _Block:
    """What a `ResidualBlock` adds."""

    norm: tuple[Array, Array]
    inner: LinearAlone
    outer: LinearAlone

    @classmethod
    def of(cls, name: str, tensors: Tensors) -> "_Block":
        norm = tensors[f"{name}.norm.weight"], tensors[f"{name}.norm.bias"]
        return cls(norm, _linear(f"{name}.inner", tensors), _linear(f"{name}.outer", tensors))

    def __call__(self, z: Array) -> Array:
        scale, shift = self.norm
        x = normal(z)
        x *= scale
        x += shift
        return self.outer(_gelu(self.inner(x)))


def _linear(name: str, tensors: Tensors) -> LinearAlone:
    return LinearAlone(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _gelu(x: Array) -> Array:
    return gelu(x.reshape(-1)).reshape(x.shape)
