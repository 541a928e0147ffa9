"""Geometries that give their cost row by row, in blocks that fit into memory."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry.base import Eps, Geometry, expand_eps

BLOCK = 2**22
"""Entries of a block of (*batch, rows, m): 32 MiB in float64."""


class RowwiseGeometry(Geometry):
    """Answers in the log domain, one block of rows at a time; differentiable in h, v and the cost."""

    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        parts = [z.logsumexp(-1) for _, z in self._exponents(h, eps)]
        return -expand_eps(eps, h) * torch.cat(parts, -1)

    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        return torch.cat([z.softmax(-1) @ v for _, z in self._exponents(h, eps)], -2)

    def mean_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        parts = [(z.softmax(-1) * C).sum(-1) for C, z in self._exponents(h, eps)]
        return torch.cat(parts, -1)

    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([(C - h[..., None, :]).amin(-1) for C in self._blocks(h)], -1)

    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        return torch.cat([(v[..., None, :] @ C.mT).squeeze(-2) for C in self._blocks(v)], -1)

    def _exponents(self, h: Tensor, eps: Eps) -> Iterator[tuple[Tensor, Tensor]]:
        scale = expand_eps(eps, h, 2)
        for C in self._blocks(h):
            yield C, (h[..., None, :] - C) / scale

    def _blocks(self, h: Tensor) -> Iterator[Tensor]:
        """Yield C by as many rows as fit into a block for this batch."""
        n = self.shape[0]
        step = max(1, BLOCK // max(1, h.numel()))
        for start in range(0, n, step):
            yield self.cost_rows(slice(start, min(n, start + step))).to(h)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...
