"""The softmin of a single grid in numpy, whose calls take a fraction of the time of torch's."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from metaot.geometry.separable_axis import EMPTY, AxisKernel

Array = np.ndarray


@final
@dataclass(frozen=True)
class PlainSingle:
    """Plain kernels of the axes, the last one first; sums are scaled up by 2^lift, `offset` is the lowest cost."""

    kernels: list[Array]
    unit: float
    lift: float
    offset: float

    @classmethod
    def of(cls, kernels: tuple[Tensor, ...], unit: float, lift: float, offset: float) -> "PlainSingle":
        """Take the kernels of one eps."""
        return cls([K.reshape(K.shape[-2:]).numpy() for K in reversed(kernels)], unit, lift, offset)

    def softmin(self, h: Array) -> Array:
        """Return the softmin of h, for one instance."""
        top = max(float(h.max()), EMPTY) - self.lift * self.unit
        with np.errstate(all="ignore"):
            x = np.exp2((h - top) * (1 / self.unit))
            for K in self.kernels:
                x = K @ x.reshape(-1, K.shape[-1]).T
            return np.log2(x).reshape(-1) * -self.unit - (top - self.offset)


@final
@dataclass(frozen=True)
class BlocksSingle:
    """The kernels of the axes in blocks, the last one first; near, far, lift and rows as in `AxisKernel`."""

    axes: list[tuple[Array, Array, Array, float, int]]
    unit: float

    @classmethod
    def of(cls, axes: tuple[AxisKernel, ...], unit: float) -> "BlocksSingle":
        """Take the kernels of one eps."""
        parts = [(x.kernel.numpy(), x.near.numpy(), x.far.numpy(), x.lift, x.shape[2]) for x in reversed(axes)]
        return cls(parts, unit)

    def softmin(self, h: Array) -> Array:
        """Return the softmin of h, for one instance."""
        z = h * (1 / self.unit)
        with np.errstate(all="ignore"):
            for kernel, near, far, lift, rows in self.axes:
                exponents = z.reshape(1, -1, kernel.shape[-1]) - near
                top = np.maximum(exponents.max(-1, keepdims=True), EMPTY) - lift
                exponents -= top
                sums = kernel @ np.exp2(exponents, out=exponents).transpose(0, 2, 1)
                logs = np.log2(sums, out=sums)
                logs += top.transpose(0, 2, 1)
                logs -= far
                z = logs.reshape(-1, logs.shape[-1])[:rows]
        return z.reshape(math.prod(z.shape)) * -self.unit
