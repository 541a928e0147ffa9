"""What solvers ask of a space: the softmin of a potential, and means under the softmin's weights."""

from abc import ABC, abstractmethod
from typing import overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry.kernel import Kernel
from metaot.single import AxesKernel, Kernels

Eps = float | Float[Tensor, "*batch"]
"""A temperature in the units of the cost: one number, or one for each instance of the batch."""


class Geometry(ABC):
    """A source support (n atoms), a target support (m atoms) and the cost C of moving mass between them.

    A geometry is shared by a batch of problems, or batched itself: one for each instance. The weights
    that the primitives speak of are w_ij = exp((h_j - C_ij)/eps), normalised over j. An atom j with
    h_j = -inf takes no part.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers (n, m) of source and target atoms."""

    @property
    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """The batch of geometries that this is; () when one geometry serves every instance."""

    @property
    @abstractmethod
    def T(self) -> "Geometry":
        """The same space with source and target exchanged."""

    @abstractmethod
    def softmin(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        r"""Return $-\epsilon \log \sum_j \exp((h_j - C_{ij}) / \epsilon)$."""

    @abstractmethod
    def softmin_alone(self, h: Float[np.ndarray, "m"], eps: float) -> Float[np.ndarray, "n"]:
        """Return the softmin of one h, in numpy; of a space on a CPU without a batch."""

    @abstractmethod
    def mean(
        self, h: Float[Tensor, "*batch m"], v: Float[Tensor, "*#batch m k"], eps: Eps
    ) -> Float[Tensor, "*batch n k"]:
        r"""Return $\sum_j w_{ij} v_j$, the mean of v under the weights of the softmin."""

    @abstractmethod
    def mean_cost(self, h: Float[Tensor, "*batch m"], eps: Eps) -> Float[Tensor, "*batch n"]:
        r"""Return $\sum_j w_{ij} C_{ij}$, the mean cost under the weights of the softmin."""

    @abstractmethod
    def best_plan(
        self, h: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"], eps: Eps
    ) -> tuple[Float[Tensor, "batch m"], Kernel]:
        r"""Return the softmin g of h over the source, and the plan $b_j \exp((h_i + g_j - C_{ij})/\epsilon)$.

        Its columns have the sums b. The kernel is that matrix, prepared for many products.
        """

    @overload
    def axis_kernels(self, eps: float, largest: float) -> AxesKernel | None: ...

    @overload
    def axis_kernels(self, eps: Eps, largest: float) -> Kernels | None: ...

    @abstractmethod
    def axis_kernels(self, eps: Eps, largest: float) -> Kernels | None:
        """Return exp(-C/eps) as matrices along axes, in numpy, one for each eps if there are many.

        None without axes or where C/eps > `largest`.
        """

    @abstractmethod
    def kernel_work(self, eps: Eps) -> int:
        """Return about how many multiplications of a plain matrix a product with a kernel is worth."""

    @abstractmethod
    def hardmin(self, h: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        r"""Return $\min_j C_{ij} - h_j$, the softmin's limit as eps falls to zero; +inf if all of h is -inf."""

    @abstractmethod
    def times_cost(self, v: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch n"]:
        """Return C v."""

    @abstractmethod
    def cost_rows(self, rows: slice) -> Float[Tensor, "..."]:
        """Return these rows of C, one column for each target atom; the whole of C is never kept for it."""

    @abstractmethod
    def cost_block(
        self, rows: Int[Tensor, "batch k"], columns: Int[Tensor, "batch l"]
    ) -> Float[Tensor, "batch k l"]:
        """Return C at these rows and columns, chosen for each instance; a batched geometry has this batch."""

    @property
    @abstractmethod
    def points(self) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]] | None:
        """Coordinates (n d, m d) of both supports; None when the geometry has none."""

    @property
    @abstractmethod
    def cost_name(self) -> str | None:
        """The name of the cost in `costs.COSTS`; None for a matrix or for a function of the user's."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that defines the geometry beside its type and the name of its cost."""

    @abstractmethod
    def to(self, like: Tensor) -> "Geometry":
        """Return this geometry in the dtype and on the device of `like`; itself when that is so already."""

    @abstractmethod
    def __getitem__(self, index: object) -> "Geometry":
        """Return the geometries of a part of the batch; itself when it is shared."""

    @abstractmethod
    def flat(self) -> "Geometry":
        """Return it with all batch dimensions merged into one; itself when it is shared."""

    def matches(self, other: "Geometry") -> bool:
        """Return whether `other` is the same space: type, cost, and coordinates or matrix to six digits.

        Costs that are functions of the user's are compared by the first row of C.
        """
        if self is other:
            return True
        if type(self) is not type(other) or self.cost_name != other.cost_name:
            return False
        mine, theirs = self.tensors(), other.tensors()
        if mine.keys() != theirs.keys() or not all(_close(mine[k], theirs[k]) for k in mine):
            return False
        first = slice(0, 1)
        return self.cost_name is not None or _close(self.cost_rows(first), other.cost_rows(first))

    def difference(self, other: "Geometry") -> str:
        """Return what differs from a geometry with the same description, to stand behind that; else nothing."""
        if repr(self) != repr(other):
            return ""
        theirs = other.tensors()
        for name, mine in self.tensors().items():
            one, two = (tensor.detach().double().cpu() for tensor in (mine, theirs[name]))
            if not _close(one, two):
                off = (one - two).abs()
                most, first = float(off.max()), _first(off > 0, one, two)
                return f" whose {name} differ by up to {most:.3g}, first at {name}{first}"
        return " whose cost is another function"


def _first(bad: Tensor, one: Tensor, two: Tensor) -> str:
    """Describe the first true entry: "[index] = this, got that"."""
    index = tuple(bad.nonzero()[0].tolist())
    return f"[{', '.join(map(str, index))}] = {float(one[index]):.6g}, got {float(two[index]):.6g}"


def _close(mine: Tensor, theirs: Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    return torch.allclose(mine.double().cpu(), theirs.double().cpu(), 1e-6, 1e-6)


def expand_eps(eps: Eps, like: Tensor, dims: int = 1) -> float | Tensor:
    """Return eps so that it broadcasts against a tensor with `dims` dimensions behind the batch."""
    if not isinstance(eps, Tensor):
        return eps
    return eps.to(like).reshape(eps.shape + (1,) * dims)


def in_units_of(eps: Eps, z: Tensor, dims: int = 1) -> Tensor:
    """Return z/eps for a z with `dims` dimensions behind the batch; z itself where eps is the number one."""
    return z if not isinstance(eps, Tensor) and eps == 1.0 else z / expand_eps(eps, z, dims)
