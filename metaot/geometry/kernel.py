"""Gibbs kernels of some potentials, prepared for many products: what Sinkhorn with scalings iterates on."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


class Kernel(ABC):
    """The matrix K_ij = exp((f_i + g_j - C_ij)/eps) of some potentials, prepared for many products.

    One batch dimension. f and g are thought to be near a solution, so that K is about a plan and fits into
    floating point; entries that are too small for it are zero.
    """

    @abstractmethod
    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        """Return K v."""

    @property
    @abstractmethod
    def T(self) -> "Kernel":
        """The kernel with source and target exchanged."""

    @abstractmethod
    def __getitem__(self, index: Tensor) -> "Kernel":
        """Return the kernels of a part of the batch."""


@final
class MatrixKernel(Kernel):
    """A kernel that is its matrix."""

    def __init__(self, K: Float[Tensor, "batch n m"]) -> None:
        self.K = K

    def times(self, v: Float[Tensor, "batch m"]) -> Float[Tensor, "batch n"]:
        if v.is_cuda or len(v) == 0:
            return (self.K @ v[:, :, None]).squeeze(-1)
        # One by one: on a CPU, batched products of a matrix and a vector take up to ten times longer.
        return torch.stack([matrix @ vector for matrix, vector in zip(self.K.unbind(), v.unbind(), strict=True)])

    @property
    def T(self) -> "MatrixKernel":
        return MatrixKernel(self.K.mT)

    def __getitem__(self, index: Tensor) -> "MatrixKernel":
        return MatrixKernel(self.K[index])
