"""Gibbs kernels of potentials, prepared for many products: Sinkhorn with scalings iterates on them."""

from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


class Kernel(ABC):
    """The matrix K_ij = exp((f_i + g_j - C_ij)/eps) of potentials f and g, with one batch dimension.

    f and g are close to a solution, so that K is nearly a plan and fits into floating point; entries that are too
    small for it are zero.
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
        # On a CPU, batched products of a matrix and a vector are slower than one product after the other.
        return torch.stack([matrix @ vector for matrix, vector in zip(self.K.unbind(), v.unbind(), strict=True)])

    @property
    def T(self) -> "MatrixKernel":
        return MatrixKernel(self.K.mT)

    def __getitem__(self, index: Tensor) -> "MatrixKernel":
        return MatrixKernel(self.K[index])
