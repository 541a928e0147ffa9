"""Gibbs kernels of potentials on a grid: a product takes one small matrix for each axis, and no powers.

Where exp(-C/eps) fits into float64, K = exp(f/eps) exp(-C/eps) exp(g/eps). Where it does not, K v is the sum of
each row times the mean of v under its weights, and that is a mean of means along each axis, see `separable_axis`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.kernel import Kernel
from metaot.geometry.separable import Separable, contract
from metaot.geometry.separable_axis import AxisKernel, AxisWeights


@final
class GridKernel(Kernel):
    """A kernel on a grid, in float64 inside; the transposed kernel is made at its first use.

    Entries of K that are less than 1e-20 of the sum of their row may be lost; |v| must be less than 1e20.
    """

    def __init__(self, product: "Product", transposed: "Callable[[], GridKernel]") -> None:
        self._product = product
        self._transposed: GridKernel | Callable[[], GridKernel] = transposed

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        result = self._product.times(v.double())
        return result if v.dtype == torch.float64 else result.to(v.dtype)

    @property
    def T(self) -> "GridKernel":
        if not isinstance(self._transposed, GridKernel):
            self._transposed = self._transposed()
        return self._transposed

    def __getitem__(self, index: Tensor) -> "GridKernel":
        def transposed() -> GridKernel:
            return GridKernel(self.T._product[index], lambda: part)

        part = GridKernel(self._product[index], transposed)
        if isinstance(self._transposed, GridKernel):
            part.T  # noqa: B018, made now, so that the whole batch is not kept
        return part


class Product(ABC):
    """A product with a matrix for each instance of a batch."""

    @abstractmethod
    def times(self, v: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Return K v."""

    @abstractmethod
    def __getitem__(self, index: Tensor) -> "Product":
        """Return the products of a part of the batch."""


def product(axes: Separable, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch n"]) -> Product:
    """Prepare products with exp((f_i + g_j - C_ij)/eps)."""
    if axes.is_plain:
        powers, top = axes.powers(g)
        return ScaledProduct(((f + (top - axes.offset)) / axes.unit).exp2_(), powers, axes.kernels)
    return MeanProduct.of(axes, f, g)


@final
@dataclass(frozen=True)
class ScaledProduct(Product):
    """Plain kernels of the axes between two scalings."""

    left: Float[Tensor, "batch n"]
    right: Float[Tensor, "batch n"]
    kernels: tuple[Tensor, ...]

    def times(self, v: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        return self.left * contract(self.right * v, self.kernels)

    def __getitem__(self, index: Tensor) -> "ScaledProduct":
        kernels = tuple(K if K.ndim == 2 else K[index] for K in self.kernels)
        return ScaledProduct(self.left[index], self.right[index], kernels)


@final
@dataclass(frozen=True)
class AxisMean:
    """Means along one axis: the part of `AxisWeights` that products need."""

    axis: AxisKernel
    scalings: Float[Tensor, "pieces lines m"]
    inverse: Float[Tensor, "pieces block_rows lines"]

    def __call__(self, v: Float[Tensor, "groups lines m"]) -> Float[Tensor, "groups n lines"]:
        """Return the mean of v over the last axis, which becomes the first."""
        scaled = self.scalings * self.axis.spread(v)
        return self.axis.join(torch.bmm(self.axis.kernel, scaled.mT).mul_(self.inverse))

    def part(self, index: Tensor, done: int, batch: int) -> "AxisMean":
        """Return the means of a part of the batch, after axes with `done` points."""
        blocks, groups, _ = self.axis.shape
        size, m = self.axis.kernel.shape[1:]
        each = batch // groups
        scalings = self.scalings.reshape(blocks, groups, done, each, -1, m)
        inverse = self.inverse.reshape(blocks, groups, size, done, each, -1)
        if groups > 1:
            scalings, inverse = scalings[:, index], inverse[:, index]
        else:
            scalings, inverse = scalings[:, :, :, index], inverse[:, :, :, :, index]
        axis = self.axis[index]
        pieces = len(axis.kernel)
        return AxisMean(axis, scalings.reshape(pieces, -1, m), inverse.reshape(pieces, size, -1))


@final
@dataclass(frozen=True)
class MeanProduct(Product):
    """The sums of the rows times means of means, the last axis first."""

    sums: Float[Tensor, "batch n"]
    means: tuple[AxisMean, ...]
    groups: int

    @classmethod
    def of(cls, axes: Separable, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch n"]) -> "MeanProduct":
        """Prepare the means under the weights of g, and the sums of the rows from f."""
        rows, means = axes.lines(g / axes.unit), []
        for axis in reversed(axes.axes):
            weights = AxisWeights(rows.reshape(len(rows), -1, axis.near.shape[-1]), axis)
            means.append(AxisMean(axis, weights.scalings, weights.inverse))
            rows = weights.log_sum
        return cls((f / axes.unit + axes.unlined(rows, g)).exp2_(), tuple(means), len(rows))

    def times(self, v: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        batch, n = v.shape
        for mean in self.means:
            v = mean(v.reshape(self.groups, -1, mean.scalings.shape[-1]))
        return self.sums * v.reshape(self.groups, n, -1).mT.reshape(batch, n)

    def __getitem__(self, index: Tensor) -> "MeanProduct":
        sums, done, means = self.sums[index], 1, []
        for mean in self.means:
            means.append(mean.part(index, done, len(self.sums)))
            done *= mean.scalings.shape[-1]
        return MeanProduct(sums, tuple(means), 1 if self.groups == 1 else len(sums))
