"""Geometries that give their cost row by row, in blocks that fit into memory."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.base import Eps, Geometry, expand_eps, in_units_of
from metaot.geometry.kernel import Kernel, MatrixKernel

BLOCK = 2**22
"""Entries of a block of (*batch, rows, m): 32 MiB in float64."""

KEEP = 2**24
"""Kernels of up to this many entries (128 MiB in float64) are kept; larger ones are made again by each product."""


class RowwiseGeometry(Geometry):
    """Answers in the log domain, one block of rows at a time; differentiable in h, v and the cost."""

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        parts = [z.logsumexp(-1) for z in self.exponents(h, eps)]
        return -expand_eps(eps, h) * torch.cat(parts, -1)

    def softmin_alone(self, h: Float[np.ndarray, "m"], eps: float) -> Float[np.ndarray, "n"]:
        return self.softmin(torch.from_numpy(h)[None], eps)[0].numpy()

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        return torch.cat([z.softmax(-1) @ v for z in self.exponents(h, eps)], -2)

    def mean_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        blocks = zip(self._blocks(h), self.exponents(h, eps), strict=True)
        return torch.cat([(z.softmax(-1) * C).sum(-1) for C, z in blocks], -1)

    def best_plan(
        self, h: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Eps
    ) -> tuple[Float[Tensor, "batch m"], Kernel]:
        if h.numel() * b.shape[-1] > KEEP:
            g = self.T.softmin(h, eps)
            return g, RowwiseKernel(self, h, g + expand_eps(eps, g) * b.log(), eps)
        C = self.cost_rows(slice(None)).to(h)
        z = in_units_of(eps, h[:, :, None] - C, 2)
        top = z.amax(-2, keepdim=True)
        K = z.sub_(top).exp_()
        total = K.sum(-2)
        g = -(top.squeeze(-2) + total.log()) * expand_eps(eps, total)
        return g, MatrixKernel(K.mul_((b / total)[:, None, :]))

    def axis_kernels(self, eps: Eps, largest: float) -> None:
        return None

    def kernel_work(self, eps: Eps) -> int:
        n, m = self.shape
        return n * m

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([(C - h[..., None, :]).amin(-1) for C in self._blocks(h)], -1)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([(v[..., None, :] @ C.mT).squeeze(-2) for C in self._blocks(v)], -1)

    def exponents(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Iterator[Float[Tensor, "*batch rows m"]]:
        """Yield (h_j - C_ij)/eps for successive blocks of rows i."""
        for C in self._blocks(h):
            yield in_units_of(eps, h[..., None, :] - C, 2)

    def _blocks(self, h: Float[Tensor, "*batch m"]) -> Iterator[Tensor]:
        """Yield C by as many rows as fit into a block for this batch."""
        n = self.shape[0]
        step = max(1, BLOCK // max(1, h.numel()))
        for start in range(0, n, step):
            yield self.cost_rows(slice(start, min(n, start + step))).to(h)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def T(self) -> "RowwiseGeometry": ...

    @abstractmethod
    def __getitem__(self, index: object) -> "RowwiseGeometry": ...


def chosen_block(
    C: Float[Tensor, "n m"], rows: Int[Tensor, "k"], columns: Int[Tensor, "l"]
) -> Float[Tensor, "k l"]:
    """Return a copy of a part of a matrix; columns that all stay are not looked up one by one."""
    block, m = C.index_select(0, rows), C.shape[1]
    if len(columns) == m and bool((columns == torch.arange(m, device=columns.device)).all()):
        return block
    return block.index_select(1, columns)


@final
class RowwiseKernel(Kernel):
    """A kernel of which each product makes the rows again, block by block."""

    def __init__(
        self, geometry: RowwiseGeometry, f: Float[Tensor, "batch n"], g: Float[Tensor, "batch m"], eps: Eps
    ) -> None:
        self._geometry, self._f, self._g, self._eps = geometry, f, g, eps

    def blocks(self) -> Iterator[Float[Tensor, "batch rows m"]]:
        """Yield blocks of rows of K."""
        f, start = self._f / expand_eps(self._eps, self._f), 0
        for z in self._geometry.exponents(self._g, self._eps):
            stop = start + z.shape[-2]
            yield (z + f[:, start:stop, None]).exp()
            start = stop

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        return torch.cat([MatrixKernel(K).times(v) for K in self.blocks()], -1)

    @property
    def T(self) -> "RowwiseKernel":
        return RowwiseKernel(self._geometry.T, self._g, self._f, self._eps)

    def __getitem__(self, index: Tensor) -> "RowwiseKernel":
        eps = self._eps[index] if isinstance(self._eps, Tensor) else self._eps
        return RowwiseKernel(self._geometry[index], self._f[index], self._g[index], eps)
